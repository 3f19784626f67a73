"""A recipe at several values of one of its options, in one run folder, with what each value brings.

What does not hang on the option is done once: steps are found by what they are made of, so a sweep over tau asks the
teacher for wordings one time and judges them at every value.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources

from cp_ray.errors import ConfigError
from cp_ray.evals import charts
from cp_ray.evals.differences import heldout_distances
from cp_ray.evals.intervals import Interval, interval
from cp_ray.evals.nulls import BASE
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, pending, select
from cp_ray.recipe import Recipe, parse_recipe
from cp_ray.records import Example, Paraphrase, QuestionScore

__all__ = ["Point", "parse_over", "plan", "point_of", "sweep", "swept_page", "table"]

_NO_SETTINGS = {
    "help", "root", "until", "rpm", "tpm", "budget", "prices", "max_failures", "fallbacks", "batch", "in_flight",
    "teacher_workers", "timeout", "workers", "gpus", "micro_tokens", "packing", "gradient_checkpointing", "zero_stage",
    "offload", "deepspeed", "checkpoint_every",
}  # fmt: skip
"""Options that change nothing of what a recipe makes. With several roots, each value's folder would be another."""

Execute = Callable[[Run, Sequence[Step]], None]
"""Do the steps, whatever shows the progress."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one value of the option brings; None where a recipe has no such thing."""

    value: str
    rows: int
    """To train on."""
    wordings: int | None = None
    """Of all questions, besides the survey's own."""
    similarity: float | None = None
    """Of those, to their question: the mean cosine."""
    diversity_gain: float | None = None
    """Of those: the mean distance to the nearest of the survey's wordings."""
    distance: float | None = None
    """Earth mover's, on the held-out questions that every culture was asked: the mean of each one's own adapter."""
    base: float | None = None
    """The same of the untrained base."""
    distance_interval: tuple[float, float] | None = None
    """95 %, over these questions."""
    base_interval: tuple[float, float] | None = None
    """The same of the untrained base."""


def parse_over(text: str) -> tuple[str, list[str]]:
    """Name and values of `tau=0.5,0.8`.

    Raises:
        ConfigError: it is of another form, or the option changes nothing of what is made.
    """
    name, _, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",") if value.strip()]
    if not name.strip() or not values or len(set(values)) != len(values):
        raise ConfigError(f"over: must be an option and different values, such as tau=0.5,0.8, got {text!r}")
    name = name.strip().lstrip("-")
    if name.replace("-", "_") in _NO_SETTINGS:
        raise ConfigError(
            f"over: {name!r} says where, how far or at what pace a recipe runs, not what it makes; "
            "choose an option that changes the result, such as tau, and give this one beside --over"
        )
    return name, values


def plan(recipe: Recipe, name: str, values: Sequence[str], arguments: Sequence[str]) -> tuple[Run, list[list[Step]]]:
    """The run folder, and the steps up to `evaluate` (or `--until`) at each value; nothing is done yet.

    Raises:
        CpRayError: a value breaks the option's rule, or what the steps need cannot be used.
    """
    chosen = []
    for value in values:
        options, steps = parse_recipe(recipe, [*arguments, f"--{name}", value], "cp-ray sweep")
        until = options.until or ("evaluate" if any(step.name == "evaluate" for step in steps) else None)
        chosen.append(select(steps, until))
        run = Run(options.root)
        pending(run, chosen[-1])
    return run, chosen


def sweep(name: str, values: Sequence[str], run: Run, planned: Sequence[Sequence[Step]], do: Execute) -> list[Point]:
    """Do what was planned at each value; the points, in the order of the values."""
    points = []
    for value, steps in zip(values, planned, strict=True):
        do(run, steps)
        points.append(point_of(value, {step.name: run.folder(step) for step in steps}))
        _write(run.root, name, points)
    return points


def swept_page(name: str, points: Sequence[Point]) -> str:
    """A plot of each measure over the option's values, as a page."""
    import jinja2

    values = [point.value for point in points]
    plots = []
    for field, title in _MEASURES:
        measured = [getattr(p, field) for p in points]
        if any(value is not None for value in measured):
            whiskers = [p.distance_interval if field == "distance" else None for p in points]
            plots.append((title, charts.value_chart(values, measured, f"{title} at each {name}", whiskers)))
    template = resources.files("cp_ray.evals").joinpath("sweep.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        name=name, plots=plots, points=points, measures=_MEASURES, sure=any(p.distance_interval for p in points)
    )


_MEASURES = (
    ("distance", "Held-out distance (earth mover's, own adapter)"),
    ("wordings", "Wordings kept"),
    ("similarity", "Mean similarity to the question"),
    ("diversity_gain", "Diversity gain"),
    ("rows", "Training rows"),
)


def table(name: str, points: Sequence[Point]) -> list[str]:
    """The points as lines of text."""
    heads = ("rows", "wordings", "similarity", "diversity", "distance", "95 %", "base", "95 %")
    widths = (8, 10, 12, 11, 10, 16, 8, 16)
    lines = [f"{name:<14}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    for p in points:
        shown = (
            p.rows, p.wordings, p.similarity, p.diversity_gain, p.distance, p.distance_interval, p.base, p.base_interval
        )  # fmt: skip
        cells = zip(map(_cell, shown), widths, strict=True)
        lines.append(f"{p.value:<14}" + "".join(f"{cell:>{width}}" for cell, width in cells))
    return lines


def _cell(value: float | tuple[float, float] | None) -> str:
    if isinstance(value, tuple):
        return f"[{value[0]:.3f}, {value[1]:.3f}]"
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _write(root: Folder, name: str, points: Sequence[Point]) -> None:
    """After every point, so that a sweep that is stopped has what it came to."""
    root.write_text(f"sweep-{name}.json", json.dumps([asdict(p) for p in points], indent=1))
    root.write_text(f"sweep-{name}.html", swept_page(name, points))


def point_of(value: str, folders: dict[str, Folder]) -> Point:
    """What one value brings, from the folders of its steps by name."""
    kept = [row for row in folders["wordings"].read(Paraphrase) if row.reject is None] if "wordings" in folders else []
    others = [row for row in kept if row.way != "survey"]
    near = [row.similarity for row in others if row.similarity is not None]
    asked = (folders["evaluate"] / "questions").read(QuestionScore) if "evaluate" in folders else []
    own, base = (_distance(heldout_distances(asked, model)) for model in (None, BASE))
    return Point(
        value,
        rows=len(folders["examples"].read(Example)) if "examples" in folders else 0,
        wordings=len(others) if "wordings" in folders else None,
        similarity=_mean(near),
        diversity_gain=_gain(kept),
        distance=own.mean if own else None,
        base=base.mean if base else None,
        distance_interval=(own.low, own.high) if own else None,
        base_interval=(base.low, base.high) if base else None,
    )


def _distance(questions: Sequence[float]) -> Interval | None:
    """Over questions, of which each is its mean over the cultures: a question is one, in however many it was asked."""
    if not questions:
        return None
    found = interval(questions, resamples=2000, seed=0)
    return Interval(*(round(value, 4) for value in (found.mean, found.low, found.high)))


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None


def _gain(wordings: Sequence[Paraphrase]) -> float | None:
    from cp_ray.diversity import diversity_gain
    from cp_ray.embedding import Embedder

    own = [row.text for row in wordings if row.way == "survey"]
    others = [row.text for row in wordings if row.way != "survey"]
    if not own or not others:
        return None
    embedder = Embedder()
    return round(diversity_gain(embedder.encode(others), embedder.encode(own)), 4)
