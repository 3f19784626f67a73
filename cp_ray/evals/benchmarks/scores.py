"""How many items each model solves, and whether training has cost any."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cp_ray.errors import ConfigError
from cp_ray.evals.compare import Comparison, holm, paired
from cp_ray.evals.intervals import share_interval
from cp_ray.evals.nulls import BASE
from cp_ray.llm.contents import OnBase
from cp_ray.records import Score

__all__ = ["TASK", "BenchmarksConfig", "Solved", "benchmark_scores", "lost"]

TASK = "benchmarks"


@dataclass(frozen=True)
class BenchmarksConfig(OnBase):
    """Which models solve what."""

    adapters: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    """Benchmark and the hash of its data."""
    harness: str
    """Version of lm-evaluation-harness."""
    rows: int | None = None
    """Only so many items of each; None for all."""
    whole: bool = False
    """The trained models have all weights, and are no adapters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"rows: must be at least 1, got {self.rows}")


@dataclass(frozen=True, slots=True)
class Solved:
    """One model's answer to one item."""

    model: str
    benchmark: str
    """`gsm8k` or `bbh/<task>`."""
    item: str
    right: bool

    @property
    def area(self) -> str:
        """`gsm8k` or `bbh`."""
        return self.benchmark.partition("/")[0]


def benchmark_scores(rows: Iterable[Solved]) -> list[Score]:
    """The share of items that each model solves: of each benchmark, and of all of BBH's together."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        for name in dict.fromkeys((row.benchmark, row.area)):
            found[row.model, name].append(row.right)
    scores = []
    for (model, name), right in found.items():
        share = share_interval(sum(right), len(right))
        scores.append(Score(model, "", TASK, name, share.mean, share.low, share.high, len(right)))
    return scores


def lost(rows: Sequence[Solved]) -> dict[tuple[str, str], Comparison]:
    """Of each adapter and area (`gsm8k`, `bbh`): its share less the base's, by paired tests, corrected (Holm)."""
    right: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        right[row.model, row.area][row.benchmark, row.item] = float(row.right)
    tests = {
        (model, area): _test(own, right[BASE, area])
        for (model, area), own in right.items()
        if model != BASE and (BASE, area) in right
    }
    corrected = holm([test.p for test in tests.values()])
    return {pair: Comparison(test.difference, p) for (pair, test), p in zip(tests.items(), corrected, strict=True)}


def _test(own: Mapping[tuple[str, str], float], base: Mapping[tuple[str, str], float]) -> Comparison:
    shared = [item for item in own if item in base]
    return paired([own[item] for item in shared], [base[item] for item in shared])
