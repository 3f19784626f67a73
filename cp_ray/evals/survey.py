"""Does a model answer a survey as a culture's people do?

Every model gets the same chats: the question, put to a person of the culture, with the options in both orders.
Its probability of an option is that of the option's whole text, renormalised over the options and averaged
over the orders. `score` sets these against the real answers, beside a uniform answerer.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.evals.distances import emd, interval, jsd
from cp_ray.records import Prediction, Score, Seed, from_table, to_table
from cp_ray.survey.asking import ask

if TYPE_CHECKING:
    from ray.data import Dataset

    from cp_ray.pipeline import Folder

__all__ = ["BASE", "UNIFORM", "PredictConfig", "ScoreConfig", "predict", "score"]

_BATCH = 8
"""Seeds that are scored together, each by every model."""

BASE = "base"
UNIFORM = "uniform"


@dataclass(frozen=True)
class PredictConfig:
    """Which models are asked, and for whose answers."""

    base_model: str
    adapters: tuple[str, ...]
    """Ids of the cultures whose adapters are asked; the untrained base always is."""
    cultures: tuple[Culture, ...]
    """Of the seeds."""


@dataclass(frozen=True)
class ScoreConfig:
    """How distances are summed up."""

    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")


def predict(
    seeds: Sequence[Seed], config: PredictConfig, adapters: "Mapping[str, Folder]", *, workers: int, progress: Any
) -> "Dataset":
    """What the base and each adapter answer to each seed, as `Prediction` rows; `workers` actors of one CPU each."""
    import ray.data

    # Neighbours of like length waste little padding.
    rows = sorted(seeds, key=lambda seed: (len(seed.options), len(seed.question), seed.id))
    # Blocks of a batch each, so that there is work for every actor.
    blocks = [to_table(rows[k : k + _BATCH], Seed) for k in range(0, len(rows), _BATCH)]
    return ray.data.from_arrow(blocks).map_batches(
        _Asker,
        fn_constructor_args=(config, dict(adapters), progress),
        batch_format="pyarrow",
        batch_size=_BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )


def score(predictions: Sequence[Prediction], seeds: Sequence[Seed], config: ScoreConfig) -> list[Score]:
    """Mean distances of every model to every culture, on trained and held-out questions apart."""
    truth = {(s.culture, s.question_id): s.distribution for s in seeds}
    pairs: dict[tuple[str, str, str], list[tuple[Sequence[float], Sequence[float]]]] = defaultdict(list)
    for p in predictions:
        real = truth[p.culture, p.item]
        pairs[p.model, p.culture, p.task].append((p.probabilities, real))
    for seed in seeds:
        even = [1 / len(seed.options)] * len(seed.options)
        pairs[UNIFORM, seed.culture, f"survey_{seed.split}"].append((even, seed.distribution))
    return list(_scores(pairs, config))


def _scores(
    pairs: Mapping[tuple[str, str, str], Sequence[tuple[Sequence[float], Sequence[float]]]], config: ScoreConfig
) -> Iterator[Score]:
    for (model, culture, task), answers in sorted(pairs.items()):
        for metric, distance in (("emd", emd), ("jsd", jsd)):
            mean = interval([distance(p, q) for p, q in answers], resamples=config.resamples, seed=config.seed)
            yield Score(model, culture, task, metric, mean.mean, mean.low, mean.high, len(answers))


class _Asker:
    """Holds the base with all adapters, in a Ray Data actor."""

    def __init__(self, config: PredictConfig, adapters: "Mapping[str, Folder]", progress: Any) -> None:
        import torch

        from cp_ray.evals.scorer import Scorer

        torch.set_num_threads(1)
        self.scorer = Scorer(config.base_model, adapters)
        self.cultures = config.cultures
        self.models = (None, *adapters)
        self.progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        seeds = from_table(table, Seed)
        forward, backward = (self._shares(seeds, reverse=reverse) for reverse in (False, True))
        rows = [
            _prediction(model or BASE, seed, tuple((a + b) / 2 for a, b in zip(one, other, strict=True)))
            for seed, ones, others in zip(seeds, forward, backward, strict=True)
            for model, one, other in zip(self.models, ones, others, strict=True)
        ]
        if self.progress is not None:
            self.progress.add(done=len(rows))
        return to_table(rows, Prediction)

    def _shares(self, seeds: Sequence[Seed], *, reverse: bool) -> list[list[tuple[float, ...]]]:
        """For each seed and each model, the probabilities of the options in the order of the scale."""
        from cp_ray.evals.scorer import Asked

        return self.scorer.option_shares(
            [
                Asked(ask(of(self.cultures, s.culture), s.question, s.options, reverse=reverse), s.options, self.models)
                for s in seeds
            ]
        )


def _prediction(model: str, seed: Seed, shares: tuple[float, ...]) -> Prediction:
    return Prediction(
        id=f"{model}/{seed.id}",
        model=model,
        culture=seed.culture,
        task=f"survey_{seed.split}",
        item=seed.question_id,
        output=seed.options[shares.index(max(shares))],
        probabilities=shares,
    )
