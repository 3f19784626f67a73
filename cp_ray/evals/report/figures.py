"""The report's figures: verdicts, the matrices, what people and models answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cp_ray.cultures import Culture, of
from cp_ray.evals import charts
from cp_ray.evals.nulls import BASE, BLIND, HUMAN, NULLS
from cp_ray.records import Prediction, Score, Seed
from cp_ray.training.config import UNIFIED

__all__ = ["MATRICES", "Verdict", "answers", "distances", "matrix", "summary", "verdicts"]


MATRICES = (
    ("Held-out questions: earth mover's distance", "survey_heldout", "emd"),
    ("Held-out questions: skill (0: a uniform answerer, 1: one half of the people against the other)",
     "survey_heldout", "skill_emd"),
    ("Held-out questions: stability when the options are listed from the other end (1: the same answer)",
     "survey_heldout", "order_stability"),
    ("Questions seen in training: earth mover's distance", "survey_train", "emd"),
    ("Held-out questions: Jensen-Shannon distance", "survey_heldout", "jsd"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the held-out distances say about one culture's adapter."""

    culture: str
    people: str
    own: Score
    base: Score
    rivals: tuple[Score, ...]
    """The other adapters, on the same people's answers."""
    blind: Score | None = None
    """The nearest of the answerers without a model that have not seen these people's answers."""

    @property
    def beats_base(self) -> bool:
        """Is it nearer to its people's answers than the untrained base?"""
        return self.own.value < self.base.value

    @property
    def beats_rivals(self) -> bool:
        """Is it nearer than every other culture's adapter?"""
        return all(self.own.value < rival.value for rival in self.rivals)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.blind is None:
            return self._against_models
        nearer = "nearer" if self.own.value < self.blind.value else "NOT nearer"
        return f"{self._against_models}; {nearer} than `{self.blind.model}`, which is no model ({self.blind.value:.3f})"

    @property
    def _against_models(self) -> str:
        base = f"{'nearer' if self.beats_base else 'NOT nearer'} to {self.people} than the untrained base"
        if not self.rivals:
            return f"{self.culture}: {base} ({self.own.value:.3f} against {self.base.value:.3f})"
        best = min(self.rivals, key=lambda s: s.value)
        rival = f"{'nearer' if self.beats_rivals else 'NOT nearer'} than every other culture's model"
        return (
            f"{self.culture}: {base} ({self.own.value:.3f} against {self.base.value:.3f}), "
            f"and {rival} (best of them: {best.model}, {best.value:.3f})"
        )


def verdicts(scores: Sequence[Score], cultures: Sequence[Culture]) -> list[Verdict]:
    """What is to be said of each culture that has an adapter."""
    found = {(s.culture, s.model): s for s in scores if s.task == "survey_heldout" and s.metric == "emd"}
    verdicts = []
    for culture in dict.fromkeys(s.culture for s in scores):
        if (culture, culture) in found and (culture, BASE) in found:
            rivals = [
                s for (c, m), s in found.items() if c == culture and m not in (culture, BASE, UNIFIED, HUMAN, *NULLS)
            ]
            people = of(cultures, culture).people
            blind = min(
                (found[culture, m] for m in BLIND if (culture, m) in found), key=lambda s: s.value, default=None
            )
            own, base = found[culture, culture], found[culture, BASE]
            verdicts.append(Verdict(culture, people, own, base, tuple(rivals), blind))
    return verdicts


def _models(scores: Iterable[Score]) -> list[str]:
    """The answerers that know nothing, the base, the adapters, the people."""
    names = dict.fromkeys(s.model for s in scores)
    fixed = (*NULLS, BASE)
    return (
        [m for m in fixed if m in names]
        + [m for m in names if m not in (*fixed, HUMAN)]
        + [m for m in names if m == HUMAN]
    )


def matrix(scores: Sequence[Score], task: str, metric: str) -> dict[str, Any]:
    """Rows of models, columns of cultures; `shade` from 0 (best of the column) to 1 (worst)."""
    some = [s for s in scores if s.task == task and s.metric == metric]
    cultures, models = list(dict.fromkeys(s.culture for s in some)), _models(some)
    by = {(s.model, s.culture): s for s in some}
    cells: list[list[dict[str, Any] | None]] = []
    for model in models:
        line: list[dict[str, Any] | None] = []
        for culture in cultures:
            score, column = by.get((model, culture)), [s.value for s in some if s.culture == culture]
            spread = max(column) - min(column) or 1.0
            shade = (score.value - min(column)) / spread if score else 0.0
            shade = shade if metric in ("emd", "jsd") else 1 - shade  # of the others, more is better
            line.append({"score": score, "own": model == culture, "shade": shade} if score else None)
        cells.append(line)
    return {"cultures": cultures, "rows": list(zip(models, cells, strict=True))}


def distances(scores: Sequence[Score], verdict: Verdict) -> dict[str, str]:
    """The distances to one people, nearest first, as a chart."""
    some = [s for s in scores if s.task == "survey_heldout" and s.metric == "emd" and s.culture == verdict.culture]
    some.sort(key=lambda s: s.value)
    return {"culture": verdict.culture, "svg": charts.distance_chart(some, f"Distance to {verdict.people}' answers")}


def answers(seeds: Sequence[Seed], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """For every held-out question of every culture: what people, the base and its own adapter answer."""
    found = {(p.model, p.culture, p.item): p.probabilities for p in predictions}
    shown = []
    for seed in seeds:
        base, own = (found.get((m, seed.culture, seed.question_id)) for m in (BASE, seed.culture))
        if seed.split == "heldout" and base and own:
            bars = charts.option_bars(
                seed.options, [("people", seed.distribution), ("base", base), ("own", own)], seed.question
            )
            shown.append({"seed": seed, "svg": bars})
    return shown


def summary(scores: Sequence[Score], verdicts: Sequence[Verdict]) -> str:
    """The figures in short, as text."""
    some = [s for s in scores if s.task == "survey_heldout" and s.metric == "emd"]
    cultures = list(dict.fromkeys(s.culture for s in some))
    by = {(s.model, s.culture): s for s in some}
    lines = [
        "Distance to the people's answers, held-out questions (0 is a perfect match; 95 % interval):",
        "  " + "model".ljust(12) + "".join(c.ljust(24) for c in cultures),
    ]
    for model in _models(some):
        cells = [_cell(by.get((model, c)), own=model == c).ljust(24) for c in cultures]
        lines.append("  " + model.ljust(12) + "".join(cells).rstrip())
    lines += ["  * its own culture's model", *(verdict.sentence for verdict in verdicts)]
    return "\n".join(lines)


def _cell(score: Score | None, *, own: bool) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]{' *' if own else ''}" if score else "–"
