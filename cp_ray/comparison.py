"""cp-ray compare: two runs, held against each other on the items that both have."""

import math
from collections.abc import Sequence
from pathlib import Path

from cp_ray.ablation import difference_table
from cp_ray.errors import ConfigError
from cp_ray.evals.benchmarks.scores import Solved
from cp_ray.evals.differences import Difference, item_differences, moderation_differences, survey_differences
from cp_ray.evals.nulls import HUMAN, NULLS
from cp_ray.evals.results.page import html_page, markdown
from cp_ray.evals.results.sections import Section
from cp_ray.folder import Folder
from cp_ray.pipeline import Run
from cp_ray.recipe import Parser
from cp_ray.records import Item, Prediction, QuestionScore, TextLoss

__all__ = ["compare_command", "compared"]


def compared(first: str, second: str) -> list[Section]:
    """What differs between two runs' evaluations, as far as both have them, and on the same items.

    Raises:
        ConfigError: they have no evaluation in common.
    """
    steps = [_last(first), _last(second)]
    sections = []
    questions = [_questions(own) for own in steps]
    if all(questions):
        known = (HUMAN, *NULLS)
        sides = [[q for q in rows if q.model not in known] for rows in questions]
        found = survey_differences(sides[0], sides[1])
        sections.append(_section("Alignment with the survey", "lower is better", found))
    items = [own.get("moderation_items") for own in steps]
    if items[0] is not None and items[1] is not None:
        told = [_choices(own) for own in steps]
        asked = items[0].read(Item)
        if {i.id: i.messages for i in asked} != {i.id: i.messages for i in items[1].read(Item)}:
            raise ConfigError("runs: their test sets are not the same; evaluate both with the same files and options")
        sections.append(_section("Content moderation", "higher is better", moderation_differences(asked, *told)))
    sections += _forgetting(steps) + _benchmarks(steps)
    if not sections:
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
    Path(given.to).write_text(html_page(title, sections, {}), encoding="utf-8")
    print(given.to)


def _last(root: str) -> dict[str, Folder]:
    """The folders of the steps that were finished last, by name."""
    return {m.name: folder for folder in Run(root).done() if (m := folder.manifest()) is not None}


def _questions(steps: dict[str, Folder]) -> list[QuestionScore]:
    """Of `cp-ray evaluate`, or of the recipe that trained; none where a run is of before there were any."""
    for name in ("survey_scores", "evaluate"):
        if name in steps and (steps[name] / "questions").exists():
            return (steps[name] / "questions").read(QuestionScore)
    return []


def _forgetting(steps: Sequence[dict[str, Folder]]) -> list[Section]:
    folders = [own["forgetting_scores"] / "texts" for own in steps if "forgetting_scores" in own]
    if len(folders) < 2:
        return []
    told: list[dict[str, dict[str, float]]] = [{}, {}]
    for own, folder in zip(told, folders, strict=True):
        for row in folder.read(TextLoss):
            own.setdefault(row.model, {})[row.text] = row.nats / row.tokens
    found = item_differences("nats a token of neutral text", told[0], told[1], (-math.inf, math.inf))
    return [_section("Forgetting", "lower is better", found)]


def _benchmarks(steps: Sequence[dict[str, Folder]]) -> list[Section]:
    folders = [own["benchmarks_scores"] / "solved" for own in steps if "benchmarks_scores" in own]
    if len(folders) < 2:
        return []
    found = []
    rows = [folder.read(Solved) for folder in folders]
    for area in dict.fromkeys(row.area for row in rows[0]):
        told: list[dict[str, dict[str, float]]] = [{}, {}]
        for own, some in zip(told, rows, strict=True):
            for row in some:
                if row.area == area:
                    own.setdefault(row.model, {})[f"{row.benchmark}/{row.item}"] = float(row.right)
        found += item_differences(f"share of {area} solved", told[0], told[1], (-1.0, 1.0))
    return [_section("Benchmarks", "higher is better", found)]


def _choices(steps: dict[str, Folder]) -> list[Prediction]:
    chosen = [folder for name, folder in steps.items() if name.split(".")[0] == "moderation_choices"]
    return [row for folder in chosen for row in folder.read(Prediction)]


def _section(title: str, better: str, found: Sequence[Difference]) -> Section:
    said = tuple(
        f"{', '.join(filter(None, (one.model, one.culture, one.what)))}: {one.told} "
        f"({one.second:.3f} against {one.first:.3f})."
        for one in found
        if one.p <= 0.05
    )
    said = said or ("Nothing is told apart.",)
    table = difference_table(f"{title} ({better})", [(one.model, one) for one in found], "second")
    notes = ("p is of a paired permutation test over the items, corrected for the number of comparisons (Holm).",)
    return Section(title, said, (table,), notes=notes)
