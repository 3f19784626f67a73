"""The command, and which evaluations two runs have in common."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cp_ray.comparison.chosen import benchmarks, forgetting, hofstede, moderation, survey
from cp_ray.comparison.evaluated import Evaluated, evaluated
from cp_ray.comparison.spoken import learning, open_answers
from cp_ray.errors import ConfigError
from cp_ray.evals.results.page import html_page, markdown
from cp_ray.evals.results.sections import Section
from cp_ray.recipe import Parser

__all__ = ["compare_command", "compared"]

_Held = Callable[[Evaluated, Evaluated], Section]

_TASKS: tuple[tuple[str, Callable[[Evaluated], bool], _Held], ...] = (
    ("Alignment with the survey", lambda run: bool(run.questions()), survey),
    ("Content moderation", lambda run: "moderation_scores" in run.steps, moderation),
    ("Hofstede's dimensions", lambda run: "hofstede_scores" in run.steps, hofstede),
    ("Forgetting", lambda run: "forgetting_scores" in run.steps, forgetting),
    ("Benchmarks", lambda run: "benchmarks_scores" in run.steps, benchmarks),
    ("Open answers", lambda run: "open_scores" in run.steps, open_answers),
    ("Learning from a talk", lambda run: "learning_scores" in run.steps, learning),
)


def compared(first: str, second: str) -> list[Section]:
    """What differs between two runs' evaluations, as far as both have them, and on the same items.

    What one of them has and the other lacks is said in a line.

    Raises:
        ConfigError: they have no evaluation in common.
    """
    runs = evaluated(first), evaluated(second)
    sections, common = [], False
    for title, has, held in _TASKS:
        there = [has(run) for run in runs]
        common |= all(there)
        if all(there):
            sections.append(held(*runs))
        elif any(there):
            lacking = second if there[0] else first
            sections.append(Section(title, (f"Not compared: {lacking} has no such evaluation.",)))
    if not common:
        raise ConfigError(f"runs: {first!r} and {second!r} have no evaluation in common; run cp-ray evaluate in both")
    return sections


def compare_command(arguments: Sequence[str]) -> None:
    """Print Markdown, or write a page."""
    parser = Parser(prog="cp-ray compare", description="Two runs' evaluations.", allow_abbrev=False)
    parser.add_argument("first", help="run folder")
    parser.add_argument("second", help="run folder that is held against it")
    parser.add_argument("--to", metavar="FILE", help="an HTML page instead of Markdown on the terminal")
    given = parser.parse_args(arguments)
    title = f"{given.second} against {given.first}"
    sections = compared(given.first, given.second)
    if given.to is None:
        print(markdown(title, sections))
        return
    try:
        Path(given.to).write_text(html_page(title, sections, {}), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"to: {given.to!r} cannot be written ({error.strerror}); give another file") from error
    print(given.to)
