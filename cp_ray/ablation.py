"""A recipe's variants in one run folder, each held against the first on the same held-out questions.

What does not differ is done once, as in a sweep. A variant counts as better or worse only where a paired test over the
questions says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cp_ray.errors import ConfigError
from cp_ray.evals.charts import distance_chart
from cp_ray.evals.differences import (
    Difference,
    corrected,
    gain_difference,
    heldout_distances,
    own_differences,
)
from cp_ray.evals.intervals import interval
from cp_ray.evals.results.page import html_page, markdown
from cp_ray.evals.results.sections import Figure, Section, Table
from cp_ray.pipeline import Run, Step, pending, select
from cp_ray.recipe import Recipe, parse_recipe
from cp_ray.records import QuestionScore, Score

__all__ = ["Study", "Variant", "ablate", "difference_table", "plan", "study_of"]

Execute = Callable[[Run, Sequence[Step]], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of a recipe."""

    name: str
    arguments: tuple[str, ...] = ()
    model: str | None = None
    """Which model of its run is looked at; None for every culture's own adapter."""
    cultures: tuple[str, ...] = ()
    """If given, what is looked at is how much nearer training brings these to their people, all of them as one."""


@dataclass(frozen=True, slots=True)
class Study:
    """What is varied, and in which recipe; the first variant is what the others are held against."""

    recipe: str
    """A file in jobs/."""
    question: str
    variants: tuple[Variant, ...]


def study_of(name: str, studies: dict[str, Study]) -> Study:
    """The study of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in studies:
        raise ConfigError(f"study: there is no {name!r}; there are {', '.join(studies)}")
    return studies[name]


def plan(recipe: Recipe, study: Study, arguments: Sequence[str]) -> tuple[Run, list[list[Step]]]:
    """The run folder, and each variant's steps up to `evaluate`; nothing is done yet.

    Raises:
        CpRayError: an option breaks its rule, or what the steps need cannot be used.
    """
    planned = []
    for variant in study.variants:
        options, steps = parse_recipe(recipe, [*arguments, *variant.arguments], "ablations")
        if variant.cultures and not {culture.id for culture in options.chosen} & set(variant.cultures):
            raise ConfigError(
                f"cultures: this study looks at {variant.name}; choose at least one of {', '.join(variant.cultures)}"
            )
        planned.append(select(steps, "evaluate"))
        run = Run(options.root)
        pending(run, planned[-1])
    return run, planned


def ablate(name: str, study: Study, run: Run, planned: Sequence[Sequence[Step]], do: Execute) -> Section:
    """Do the variants; what they come to is written to `ablation-<name>.html` and `.md` after each."""
    found: list[list[QuestionScore]] = []
    section = Section(study.question, ())
    for steps in planned:
        do(run, steps)
        scored = next(step for step in steps if step.name == "evaluate")
        found.append((run.folder(scored) / "questions").read(QuestionScore))
        section = _section(study, found)
        made_by = {v.name: {"arguments": list(v.arguments)} for v in study.variants[: len(found)]}
        run.root.write_text(f"ablation-{name}.html", html_page(f"Ablation: {name}", [section], made_by))
        run.root.write_text(f"ablation-{name}.md", markdown(f"Ablation: {name}", [section]))
    return section


def difference_table(title: str, rows: Sequence[tuple[str, Difference]], second: str = "this") -> Table:
    """Differences, each with its label."""
    heads = ("", "measure", "culture", "first", second, "difference", "p (Holm)", "items", "told")
    return Table(title, heads, tuple(_row(label, one) for label, one in rows))


def _section(study: Study, found: Sequence[Sequence[QuestionScore]]) -> Section:
    first = study.variants[0]
    made = [
        (variant.name, one)
        for variant, questions in zip(study.variants[1:], found[1:], strict=False)
        for one in _held_against(first, found[0], variant, questions)
    ]
    # One table, so one family: of many variants some would be told apart by chance.
    rows = [(name, one) for (name, _), one in zip(made, corrected([one for _, one in made]), strict=True)]
    said = tuple(
        f"{label}, {one.culture}: {one.told} ({one.second:.3f} against {one.first:.3f}, p = {one.p:.3f})."
        for label, one in rows
    )
    title = (
        "Fall of the held-out distance by training, against {!r} (higher is better)"
        if first.cultures
        else ("Held-out distance against the variant {!r} (lower is better)")
    )
    table = difference_table(title.format(first.name), rows)
    return Section(study.question, said, (table,) if rows else (), _figures(study, found))


def _figures(study: Study, found: Sequence[Sequence[QuestionScore]]) -> tuple[Figure, ...]:
    """Each variant's distance with its interval over questions, in the order of the study."""
    scores = []
    for variant, questions in zip(study.variants, found, strict=False):
        values = heldout_distances(questions, variant.model)
        if values and not variant.cultures:
            i = interval(values, resamples=2000, seed=0)
            scores.append(Score(variant.name, "", "survey_heldout", "emd", i.mean, i.low, i.high, len(values)))
    title = "Distance to the people's answers on held-out questions, mean over cultures (0 is a perfect match)"
    return (Figure(title, distance_chart(scores, title)),) if scores else ()


def _held_against(
    first: Variant, before: Sequence[QuestionScore], variant: Variant, after: Sequence[QuestionScore]
) -> list[Difference]:
    """A variant's differences from the first; p is not corrected yet."""
    if variant.cultures:
        return gain_difference(before, after, (first.cultures, variant.cultures))
    return own_differences(before, after, (first.model, variant.model))


def _row(label: str, one: Difference) -> tuple[str, ...]:
    gap = f"{one.second - one.first:+.3f}"
    if one.gap is not None:
        gap += f" [{one.gap.low:+.3f}, {one.gap.high:+.3f}]"
    return (
        label, one.what, one.culture, f"{one.first:.3f}", f"{one.second:.3f}", gap, f"{one.p:.3f}", str(one.n), one.told
    )  # fmt: skip
