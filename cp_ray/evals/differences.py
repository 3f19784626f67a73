"""Is one run better than another? The same questions, paired: for two runs, or for the variants of an ablation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cp_ray.evals.answer import came_to_none
from cp_ray.evals.compare import difference, holm, paired, paired_f1
from cp_ray.evals.f1 import confusion, macro_f1
from cp_ray.evals.intervals import Interval
from cp_ray.evals.nulls import BASE
from cp_ray.records import Item, Prediction, QuestionScore

__all__ = [
    "OVERALL", "Difference", "corrected", "culture_differences", "gain_difference", "heldout_distances",
    "item_differences", "moderation_differences", "own_differences", "survey_differences",
]  # fmt: skip

OVERALL = "all cultures"


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of one model, in two runs."""

    what: str
    model: str
    culture: str
    first: float
    second: float
    gap: Interval | None
    """Second less first, over the items; None where the measure has no interval."""
    p: float
    """Of a paired permutation test; corrected for the number of comparisons (Holm)."""
    n: int
    """Items that both have."""

    @property
    def told(self) -> str:
        """In a word."""
        return "not told apart" if self.p > 0.05 else "higher" if self.second > self.first else "lower"


Distances = Mapping[str, float]


def survey_differences(first: Sequence[QuestionScore], second: Sequence[QuestionScore]) -> list[Difference]:
    """Held-out earth mover's distances of the models that both have; lower is better."""
    return corrected(_heldout_differences(first, second))


def own_differences(
    first: Sequence[QuestionScore],
    second: Sequence[QuestionScore],
    models: tuple[str | None, str | None] = (None, None),
) -> list[Difference]:
    """The same of every culture's own adapter, the cultures together as well; p is not corrected yet.

    Args:
        first: a run's.
        second: another's.
        models: which model of each is looked at; None for every culture's own adapter.
    """
    sides = [
        [replace(q, model="own") for q in questions if q.model == (model or q.culture)]
        for questions, model in zip((first, second), models, strict=True)
    ]
    return _heldout_differences(sides[0], sides[1])


def heldout_distances(questions: Sequence[QuestionScore], model: str | None = None) -> list[float]:
    """Of each held-out question the mean distance over the cultures; of each culture's own adapter, or of a model."""
    told = _distances(questions)
    cultures = sorted({culture for _, culture in told})
    each = [told[model or c, c] for c in cultures if (model or c, c) in told]
    return list(_mean(each).values()) if each else []


def gain_difference(
    first: Sequence[QuestionScore], second: Sequence[QuestionScore], groups: tuple[Sequence[str], Sequence[str]]
) -> list[Difference]:
    """By how much training brings two groups of cultures nearer to their people, question by question.

    A group's gain on a question is the mean over its cultures of the base's distance less the own adapter's; cultures
    that were not evaluated count for nothing.
    """
    gains = [_gains(questions, group) for questions, group in zip((first, second), groups, strict=True)]
    found = _difference("own", OVERALL, *gains, what="fall of the held-out distance")
    return [found] if found is not None else []


def moderation_differences(
    items: Sequence[Item], first: Sequence[Prediction], second: Sequence[Prediction], *, resamples: int = 2000
) -> list[Difference]:
    """Macro-F1 of the models that both have, set by set; higher is better.

    It is over the rows to which an answer came in both, whatever it was.
    """
    told = [
        {(p.model, p.item): p.output if p.reject is None else None for p in rows if not came_to_none(p)}
        for rows in (first, second)
    ]
    sets: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.reject is None:
            sets[item.task].append(item)
    models = [m for m in dict.fromkeys(m for m, _ in told[0]) if m in {m for m, _ in told[1]}]
    found = []
    for task, own in sets.items():
        for model in models:
            both = [i for i in own if all((model, i.id) in one for one in told)]
            if not both:
                continue
            gold, labels = [i.gold for i in both], both[0].options
            said = [[one[model, i.id] for i in both] for one in told]
            test = paired_f1(gold, said[1], said[0], labels, resamples=resamples)
            before, after = (_f1(gold, one, labels) for one in said)
            name = f"macro-F1 of {task}"
            found.append(Difference(name, model, own[0].culture, before, after, None, test.p, len(both)))
    return corrected(found)


def culture_differences(
    model: str,
    first: Mapping[str, Distances],
    second: Mapping[str, Distances],
    *,
    what: str = "held-out distance",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> list[Difference]:
    """A model's measure in each culture that both have, and its mean over them; p is not corrected yet.

    Args:
        model: whose.
        first: of each culture the items' values in the first run; an item is one, in however many cultures it stands.
        second: the same in the second.
        what: the measure.
        bounds: between which the true difference can lie.
    """
    cultures = [c for c in first if c in second]
    cells = [(c, first[c], second[c]) for c in cultures]
    if len(cultures) > 1:
        cells.append((OVERALL, _mean([first[c] for c in cultures]), _mean([second[c] for c in cultures])))
    found = [_difference(model, *cell, what=what, bounds=bounds) for cell in cells]
    return [one for one in found if one is not None]


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The same, with p corrected for their number (Holm)."""
    return [replace(one, p=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def item_differences(
    what: str, first: Mapping[str, Distances], second: Mapping[str, Distances], bounds: tuple[float, float]
) -> list[Difference]:
    """A measure's mean over items, of the models that both have: by model, each item's value in each run.

    p is not corrected yet.
    """
    found = [_difference(m, "", a, second[m], what=what, bounds=bounds) for m, a in first.items() if m in second]
    return [one for one in found if one is not None]


def _heldout_differences(first: Sequence[QuestionScore], second: Sequence[QuestionScore]) -> list[Difference]:
    a, b = _distances(first), _distances(second)
    found = []
    for model in dict.fromkeys(model for model, _ in a):
        sides = [{c: told for (m, c), told in one.items() if m == model} for one in (a, b)]
        found += culture_differences(model, *sides)
    return found


def _distances(questions: Sequence[QuestionScore]) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for q in questions:
        if q.split == "heldout":
            found[q.model, q.culture][q.question_id] = q.emd
    return dict(found)


def _mean(cultures: Sequence[Distances]) -> dict[str, float]:
    """Of the questions that every culture was asked."""
    shared = [id for id in cultures[0] if all(id in one for one in cultures)]
    return {id: sum(one[id] for one in cultures) / len(cultures) for id in shared}


def _gains(questions: Sequence[QuestionScore], cultures: Sequence[str]) -> dict[str, float]:
    told = _distances(questions)
    there = [c for c in cultures if (c, c) in told and (BASE, c) in told]
    each = [{id: told[BASE, c][id] - own for id, own in told[c, c].items() if id in told[BASE, c]} for c in there]
    return _mean(each) if each else {}


def _difference(
    model: str,
    culture: str,
    a: Distances,
    b: Distances,
    *,
    what: str = "held-out distance",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Difference | None:
    """None where they have no item in common."""
    shared = [id for id in a if id in b]
    if not shared:
        return None
    x, y = [a[id] for id in shared], [b[id] for id in shared]
    gap = difference(y, x, resamples=2000, seed=0, bounds=bounds)
    before, after = sum(x) / len(x), sum(y) / len(y)
    return Difference(what, model, culture, before, after, gap, paired(y, x).p, len(shared))


def _f1(gold: Sequence[str], said: Sequence[str | None], labels: Sequence[str]) -> float:
    return macro_f1(confusion(gold, said, labels))
