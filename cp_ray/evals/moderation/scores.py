"""Macro-F1 of each model on each test set, beside answerers that do not read the text, and averages by culture."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cp_ray.errors import ConfigError
from cp_ray.evals.answer import came_to_none
from cp_ray.evals.f1 import Drawn, average_interval, confusion, drawn, interval_of
from cp_ray.evals.intervals import Interval, share_interval
from cp_ray.evals.moderation.families import HARMLESS
from cp_ray.evals.moderation.state import set_states
from cp_ray.records import Item, Prediction, Score

__all__ = ["AVERAGE", "BASELINES", "CONSTANT", "MAJORITY", "RANDOM", "ModerationConfig", "moderation_scores"]

MAJORITY = "majority"
"""Always the commonest label of the set, which it has been told."""
CONSTANT = "constant"
"""Always that nothing is wrong with the text; not where no label says so."""
RANDOM = "random"
"""Any label, by lot."""
BASELINES = (MAJORITY, CONSTANT, RANDOM)

AVERAGE = "moderation"
"""The task of the averages over a culture's sets."""

Said = Mapping[str, str | None]
"""The option that was chosen, by the item's id; None for an answer that names none."""


@dataclass(frozen=True)
class ModerationConfig:
    """How figures are made."""

    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")


def moderation_scores(
    items: Sequence[Item], predictions: Iterable[Prediction], config: ModerationConfig
) -> list[Score]:
    """All figures: by set and model, and by culture over the sets that are in the averages.

    A model's figures are over the items of which an answer came, whatever it was.
    """
    used = [item for item in items if item.reject is None]
    said: dict[str, dict[str, str | None]] = defaultdict(dict)
    asked: dict[str, set[str]] = defaultdict(set)
    for p in predictions:
        asked[p.model].add(p.item)
        if not came_to_none(p):
            said[p.model][p.item] = p.output if p.reject is None else None
    sets: dict[str, list[Item]] = defaultdict(list)
    for item in used:
        sets[item.task].append(item)
    averaged = {state.task for state in set_states(items) if not state.left_out}
    scores: list[Score] = []
    draws: dict[tuple[str, str], list[Drawn]] = defaultdict(list)
    for task, own in sets.items():
        answers = {model: told for model, told in said.items() if all(item.id in asked[model] for item in own)}
        for model, told in {**_baselines(own, config.seed), **answers}.items():
            there = [item for item in own if item.id in told]
            if not there:
                continue
            counts = confusion([item.gold for item in there], [told[item.id] for item in there], own[0].options)
            # Sets are drawn apart from each other, hence a seed of its own for each.
            seed = config.seed + len(draws.get((own[0].culture, model), ()))
            found = drawn(counts, resamples=config.resamples, seed=seed)
            scores += _figures(model, own[0], counts, interval_of(found))
            if task in averaged:
                draws[own[0].culture, model].append(found)
    sets_of = Counter(task.partition("/")[0] for task in averaged)
    # A mean over fewer sets than the others' could not be held against theirs.
    whole = {pair: some for pair, some in draws.items() if len(some) == sets_of[pair[0]]}
    return scores + [_average(culture, model, some) for (culture, model), some in whole.items()]


def _baselines(items: Sequence[Item], seed: int) -> dict[str, Said]:
    commonest = Counter(item.gold for item in items).most_common(1)[0][0]
    lots = np.random.default_rng(seed).integers(0, len(items[0].options), size=len(items))
    found: dict[str, Said] = {
        MAJORITY: {item.id: commonest for item in items},
        RANDOM: {item.id: item.options[k] for item, k in zip(items, lots, strict=True)},
    }
    harmless = next((option for option in items[0].options if option in HARMLESS), None)
    if harmless is not None:
        found[CONSTANT] = {item.id: harmless for item in items}
    return found


def _figures(
    model: str, item: Item, counts: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", f1: Interval
) -> list[Score]:
    n = int(counts.sum())
    right, lost = int(np.trace(counts)), int(counts[:, -1].sum())
    return [
        Score(model, item.culture, item.task, name, i.mean, i.low, i.high, n)
        for name, i in (
            ("macro_f1", f1),
            ("accuracy", share_interval(right, n)),
            ("unparsable", share_interval(lost, n)),
        )
    ]


def _average(culture: str, model: str, sets: Sequence[Drawn]) -> Score:
    found = average_interval(sets)
    return Score(model, culture, AVERAGE, "macro_f1", found.mean, found.low, found.high, len(sets))
