"""The report: one self-contained HTML page on a whole run, and its figures in short for a terminal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from cp_ray.cultures import Culture, of
from cp_ray.evals import charts
from cp_ray.evals.survey import BASE, UNIFORM
from cp_ray.evals.talks import TalkRates, talk_rates
from cp_ray.records import (
    Analysis,
    Dialogue,
    Example,
    Nearness,
    Opinion,
    Paraphrase,
    Prediction,
    Score,
    Seed,
    TrainPoint,
)
from cp_ray.stages.examples import check_split
from cp_ray.survey.items import Source

if TYPE_CHECKING:
    from cp_ray.pipeline import Folder

__all__ = ["ReportConfig", "render"]


@dataclass(frozen=True)
class ReportConfig:
    """What is shown."""

    cultures: tuple[Culture, ...]
    """Of the seeds."""
    survey: Source
    """That the models are held against."""
    opinions: int = 6
    """Accepted ones shown, and as many that were set aside."""
    page: int = 2
    """Edition of the page."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the held-out distances say about one culture's adapter."""

    culture: str
    people: str
    own: Score
    base: Score
    rivals: tuple[Score, ...]
    """The other adapters, on the same people's answers."""

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
        base = f"{'nearer' if self.beats_base else 'NOT nearer'} to {self.people} than the untrained base"
        if not self.rivals:
            return f"{self.culture}: {base} ({self.own.value:.3f} against {self.base.value:.3f})"
        best = min(self.rivals, key=lambda s: s.value)
        rival = f"{'nearer' if self.beats_rivals else 'NOT nearer'} than every other adapter"
        return (
            f"{self.culture}: {base} ({self.own.value:.3f} against {self.base.value:.3f}), "
            f"and {rival} (best of them: {best.model}, {best.value:.3f})"
        )


def render(inputs: "Mapping[str, Folder]", root: str, config: ReportConfig) -> tuple[str, str]:
    """The page and the summary.

    Args:
        inputs: the folders of the steps by name; a page can be made of whichever there are.
        root: the run folder, for what was paid.
        config: what is shown.
    """
    import jinja2

    scores = inputs["evaluate"].read(Score) if "evaluate" in inputs else []
    seeds = inputs["seeds"].read(Seed) if "seeds" in inputs else []
    verdicts = _verdicts(scores, config.cultures)
    template = resources.files("cp_ray.evals").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        cultures=[of(config.cultures, c) for c in dict.fromkeys(s.culture for s in seeds)],
        survey=config.survey,
        verdicts=verdicts,
        matrices=[(title, _matrix(scores, task, metric)) for title, task, metric in _MATRICES],
        distances=[_distances(scores, v) for v in verdicts],
        answers=_answers(seeds, _rows(inputs, "predict", Prediction)),
        funnel=_funnel(inputs),
        data=_data(seeds, _rows(inputs, "examples", Example), config.cultures),
        near=_near(inputs),
        wordings=_wordings(inputs, config.opinions),
        dialogue=_sample_dialogue(_rows(inputs, "dialogue", Dialogue)),
        talks=_talks(inputs),
        opinions=_sample_opinions(_opinions(inputs), None, config.opinions),
        rejected=_rejected(inputs, config.opinions),
        curves=_curves(inputs),
        served=_rows(inputs, "serve", Prediction),
        asked=_asked(seeds, _rows(inputs, "serve", Prediction)),
        paid=_paid(root),
        manifests={name: m.config for name, folder in inputs.items() if (m := folder.manifest())},
        teacher=_teacher(inputs),
        heldout=list(dict.fromkeys((s.question_id, s.topic, s.question) for s in seeds if s.split == "heldout")),
    )
    return page, _summary(scores, verdicts)


_MATRICES = (
    ("Held-out questions: earth mover's distance", "survey_heldout", "emd"),
    ("Questions seen in training: earth mover's distance", "survey_train", "emd"),
    ("Held-out questions: Jensen-Shannon distance", "survey_heldout", "jsd"),
)


def _rows(inputs: "Mapping[str, Folder]", name: str, row: type[Any]) -> list[Any]:
    """The rows of a step, of all its waves if it has some."""
    return [line for part, folder in inputs.items() if part.split(".")[0] == name for line in folder.read(row)]


def _opinions(inputs: "Mapping[str, Folder]") -> list[Opinion]:
    """What the last step that set opinions aside left of them."""
    parts = [name for name in inputs if name.split(".")[0] in ("dedup", "near", "quota")]
    return inputs[parts[-1]].read(Opinion) if parts else []


def _verdicts(scores: Sequence[Score], cultures: Sequence[Culture]) -> list[Verdict]:
    found = {(s.culture, s.model): s for s in scores if s.task == "survey_heldout" and s.metric == "emd"}
    verdicts = []
    for culture in dict.fromkeys(s.culture for s in scores):
        if (culture, culture) in found and (culture, BASE) in found:
            rivals = [s for (c, m), s in found.items() if c == culture and m not in (culture, BASE, UNIFORM)]
            people = of(cultures, culture).people
            verdicts.append(Verdict(culture, people, found[culture, culture], found[culture, BASE], tuple(rivals)))
    return verdicts


def _models(scores: Iterable[Score]) -> list[str]:
    """Uniform and base first, then the adapters."""
    names = dict.fromkeys(s.model for s in scores)
    return [m for m in (UNIFORM, BASE) if m in names] + [m for m in names if m not in (UNIFORM, BASE)]


def _matrix(scores: Sequence[Score], task: str, metric: str) -> dict[str, Any]:
    """Rows of models, columns of cultures; `shade` from 0 (nearest of the column) to 1 (farthest)."""
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
            line.append({"score": score, "own": model == culture, "shade": shade} if score else None)
        cells.append(line)
    return {"cultures": cultures, "rows": list(zip(models, cells, strict=True))}


def _distances(scores: Sequence[Score], verdict: Verdict) -> dict[str, str]:
    some = [s for s in scores if s.task == "survey_heldout" and s.metric == "emd" and s.culture == verdict.culture]
    some.sort(key=lambda s: s.value)
    return {"culture": verdict.culture, "svg": charts.distance_chart(some, f"Distance to {verdict.people}' answers")}


def _answers(seeds: Sequence[Seed], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
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


def _funnel(inputs: "Mapping[str, Folder]") -> list[Any]:
    return [m for folder in inputs.values() if (m := folder.manifest())]


def _data(seeds: Sequence[Seed], examples: Sequence[Example], cultures: Sequence[Culture]) -> dict[str, Any] | None:
    """Training rows of every culture by kind, and how many were held against held-out questions."""
    if not examples:
        return None
    counted = Counter((e.culture, e.kind) for e in examples)
    kinds = sorted({e.kind for e in examples})
    return {
        "kinds": kinds,
        "lines": [(c.id, [counted[c.id, kind] for kind in kinds]) for c in cultures],
        "pairs": check_split(examples, seeds),
    }


def _near(inputs: "Mapping[str, Folder]") -> dict[str, Any] | None:
    """How near the texts that were trained on come to the held-out questions."""
    rows = inputs["leakage"].read(Nearness) if "leakage" in inputs else []
    if not rows:
        return None
    kept = [row for row in rows if row.reject is None]
    return {
        "texts": len(rows),
        "left_out": len(rows) - len(kept),
        "nearest": max(kept, key=lambda row: row.similarity, default=None),
    }


def _wordings(inputs: "Mapping[str, Folder]", n: int) -> list[tuple[str, list[Paraphrase]]]:
    """Some questions with the wordings that were kept of them."""
    found: dict[str, list[Paraphrase]] = {}
    for row in inputs["wordings"].read(Paraphrase) if "wordings" in inputs else []:
        if row.reject is None and row.way != "survey":
            found.setdefault(row.question, []).append(row)
    return sorted(found.items(), key=lambda line: -len(line[1]))[:n]


def _sample_dialogue(dialogues: Sequence[Dialogue]) -> Dialogue | None:
    whole = [d for d in dialogues if d.reject is None]
    return max(whole, key=lambda d: len({t.text for t in d.turns}), default=None)


def _talks(inputs: "Mapping[str, Folder]") -> list[TalkRates]:
    return talk_rates(inputs["analyse"].read(Analysis)) if "analyse" in inputs else []


def _sample_opinions(opinions: Sequence[Opinion], reject: str | None, n: int) -> list[Opinion]:
    """Spread over the cultures."""
    counted: Counter[str] = Counter()
    some = [o for o in opinions if o.reject == reject]
    rank = []
    for opinion in some:
        rank.append((counted[opinion.culture], opinion))
        counted[opinion.culture] += 1
    return [o for _, o in sorted(rank, key=lambda line: line[0])][:n]


def _rejected(inputs: "Mapping[str, Folder]", n: int) -> list[Opinion]:
    """One of each reason in turn, from all the steps that set opinions aside."""
    rows = [o for name in ("extract", "direct", "verify") for o in _rows(inputs, name, Opinion) if o.reject]
    rows += [o for o in _opinions(inputs) if o.reject]
    counted: Counter[str | None] = Counter()
    rank = []
    for opinion in rows:
        rank.append((counted[opinion.reject], opinion))
        counted[opinion.reject] += 1
    return [o for _, o in sorted(rank, key=lambda line: line[0])][:n]


def _curves(inputs: "Mapping[str, Folder]") -> str | None:
    curves = {
        name.removeprefix("train."): (folder / "log").read(TrainPoint)
        for name, folder in inputs.items()
        if name.startswith("train.")
    }
    return charts.loss_chart(curves, "Loss over training steps") if curves else None


def _asked(seeds: Sequence[Seed], served: Sequence[Prediction]) -> dict[str, Seed]:
    """The seed that each served model was asked about, by culture."""
    return {p.culture: s for p in served for s in seeds if s.question == p.item and s.culture == p.culture}


def _paid(root: str) -> list[Any]:
    from cp_ray.llm.ledger import summary

    return summary(root)


def _teacher(inputs: "Mapping[str, Folder]") -> str | None:
    found = [m for name, folder in inputs.items() if name.split(".")[0] == "verify" and (m := folder.manifest())]
    return str(found[0].config["teacher"]) if found else None


def _summary(scores: Sequence[Score], verdicts: Sequence[Verdict]) -> str:
    some = [s for s in scores if s.task == "survey_heldout" and s.metric == "emd"]
    cultures = list(dict.fromkeys(s.culture for s in some))
    by = {(s.model, s.culture): s for s in some}
    lines = [
        "Distance to the people's answers, held-out questions (0 is a perfect match; 95 % interval):",
        "  " + "model".ljust(12) + "".join(c.ljust(24) for c in cultures),
    ]
    for model in _models(some):
        cells = [
            f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}]{' *' if model == c else ''}".ljust(24)
            for c in cultures
            if (s := by.get((model, c)))
        ]
        lines.append("  " + model.ljust(12) + "".join(cells).rstrip())
    lines += ["  * its own culture's adapter", *(verdict.sentence for verdict in verdicts)]
    return "\n".join(lines)
