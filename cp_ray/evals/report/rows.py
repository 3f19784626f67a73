"""The report's rows: what the steps of a run left, as the page shows it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cp_ray.cultures import Culture
from cp_ray.evals import charts
from cp_ray.evals.talks import TalkRates, talk_rates
from cp_ray.records import Analysis, Dialogue, Example, Nearness, Opinion, Paraphrase, Prediction, Seed, TrainPoint
from cp_ray.stages.examples import check_split
from cp_ray.training.hosted.config import HostedPoint

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = [
    "asked", "curves", "data", "funnel", "near", "opinions", "paid", "rejected", "rows", "sample_dialogue",
    "sample_opinions", "talks", "teacher", "wordings",
]  # fmt: skip


def rows(inputs: "Mapping[str, Folder]", name: str, row: type[Any]) -> list[Any]:
    """The rows of a step, of all its waves if it has some."""
    return [line for part, folder in inputs.items() if part.split(".")[0] == name for line in folder.read(row)]


def opinions(inputs: "Mapping[str, Folder]") -> list[Opinion]:
    """What the last step that set opinions aside left of them."""
    parts = [name for name in inputs if name.split(".")[0] in ("dedup", "near", "quota")]
    return inputs[parts[-1]].read(Opinion) if parts else []


def funnel(inputs: "Mapping[str, Folder]") -> list[Any]:
    """The manifests of all steps, in their order."""
    return [m for folder in inputs.values() if (m := folder.manifest())]


def data(seeds: Sequence[Seed], examples: Sequence[Example], cultures: Sequence[Culture]) -> dict[str, Any] | None:
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


def near(inputs: "Mapping[str, Folder]") -> dict[str, Any] | None:
    """How near the texts that were trained on come to the held-out questions."""
    rows = inputs["leakage"].read(Nearness) if "leakage" in inputs else []
    if not rows:
        return None
    kept = [row for row in rows if row.reject is None]
    return {
        "texts": len({row.text for row in rows}),
        "left_out": len({row.text for row in rows if row.reject is not None}),
        "nearest": max(kept, key=lambda row: row.similarity, default=None),
    }


def wordings(inputs: "Mapping[str, Folder]", n: int) -> list[tuple[str, list[Paraphrase]]]:
    """Some questions with the wordings that were kept of them."""
    found: dict[str, list[Paraphrase]] = {}
    for row in inputs["wordings"].read(Paraphrase) if "wordings" in inputs else []:
        if row.reject is None and row.way != "survey":
            found.setdefault(row.question, []).append(row)
    return sorted(found.items(), key=lambda line: -len(line[1]))[:n]


def sample_dialogue(dialogues: Sequence[Dialogue]) -> Dialogue | None:
    """The one that repeats itself least."""
    whole = [d for d in dialogues if d.reject is None]
    return max(whole, key=lambda d: len({t.text for t in d.turns}), default=None)


def talks(inputs: "Mapping[str, Folder]") -> list[TalkRates]:
    """How people talk, where dialogues were analysed."""
    return talk_rates(inputs["analyse"].read(Analysis)) if "analyse" in inputs else []


def sample_opinions(opinions: Sequence[Opinion], reject: str | None, n: int) -> list[Opinion]:
    """Spread over the cultures."""
    counted: Counter[str] = Counter()
    some = [o for o in opinions if o.reject == reject]
    rank = []
    for opinion in some:
        rank.append((counted[opinion.culture], opinion))
        counted[opinion.culture] += 1
    return [o for _, o in sorted(rank, key=lambda line: line[0])][:n]


def rejected(inputs: "Mapping[str, Folder]", n: int) -> list[Opinion]:
    """One of each reason in turn, from all the steps that set opinions aside."""
    found = [o for name in ("extract", "direct", "verify") for o in rows(inputs, name, Opinion) if o.reject]
    found += [o for o in opinions(inputs) if o.reject]
    counted: Counter[str | None] = Counter()
    rank = []
    for opinion in found:
        rank.append((counted[opinion.reject], opinion))
        counted[opinion.reject] += 1
    return [o for _, o in sorted(rank, key=lambda line: line[0])][:n]


def curves(inputs: "Mapping[str, Folder]") -> str | None:
    """Losses over training steps as a chart; None where nothing was trained."""
    curves: dict[str, list[TrainPoint]] = {}
    kept: dict[str, int] = {}
    for name, folder in inputs.items():
        kind = name.split(".")[0]
        for point in (folder / "log").read(TrainPoint) if kind == "train" else ():
            curves.setdefault(point.model, []).append(point)
        for told in folder.read(HostedPoint) if kind == "hosted" else ():
            point = TrainPoint(told.culture, told.step, told.loss, 0.0, 0, 0.0, told.valid_loss)
            curves.setdefault(told.culture, []).append(point)
        if kind == "train":
            kept |= {model: step for model, points in curves.items() if (step := _best(points)) is not None}
    return charts.loss_chart(curves, kept, "Loss over training steps") if curves else None


def _best(points: Sequence[TrainPoint]) -> int | None:
    """The step whose weights were kept: the first with the smallest loss on what validates; None for the last."""
    validated = [(p.validation, p.step) for p in points if p.validation is not None]
    return min(validated)[1] if validated else None


def asked(seeds: Sequence[Seed], served: Sequence[Prediction]) -> dict[str, Seed]:
    """The seed that each served model was asked about, by culture."""
    return {p.culture: s for p in served for s in seeds if s.question == p.item and s.culture == p.culture}


def paid(root: str) -> list[Any]:
    """What each step was paid for."""
    from cp_ray.llm.ledger import summary

    return summary(root)


def teacher(inputs: "Mapping[str, Folder]") -> str | None:
    """The name of the teacher; None where there was none."""
    asked = ("verify", "extract", "direct")
    found = [m for name, folder in inputs.items() if name.split(".")[0] in asked and (m := folder.manifest())]
    return str(found[0].config["teacher"]) if found else None
