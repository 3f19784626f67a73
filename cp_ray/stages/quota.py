"""quota: exactly so many accepted opinions of each culture, within a number of candidates.

Candidates are taken in waves. The first is sized by a guess of how many opinions a candidate gives, each further one by
what the earlier ones gave; what is accepted beyond the number is set aside.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cp_ray.errors import ConfigError
from cp_ray.records import Candidate, Opinion

__all__ = ["SURPLUS", "QuotaConfig", "next_wave", "take"]

SURPLUS = "more than asked for"


@dataclass(frozen=True)
class QuotaConfig:
    """How many, and how they are come by."""

    accepted: int
    """Opinions of each culture."""
    candidates: int
    """Seeds talked about (again and again) of each culture, at most."""
    waves: int = 4
    guess: float = 4.0
    """Accepted opinions of a candidate, before anything is known."""
    margin: float = 1.15
    """A wave takes so many more candidates than would do by expectation."""

    def __post_init__(self) -> None:
        for name in ("accepted", "candidates", "waves"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")


def next_wave(
    candidates: Iterable[Candidate], tried: Mapping[str, int], accepted: Mapping[str, int], config: QuotaConfig
) -> list[Candidate]:
    """The candidates that what was accepted so far makes necessary.

    Args:
        candidates: all there are, in the order to take them, the same for every wave.
        tried: how many of each culture were taken before.
        accepted: opinions of each culture that came of them.
        config: what is wanted.
    """
    by_culture: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_culture[candidate.seed.culture].append(candidate)
    chosen = []
    for culture, own in by_culture.items():
        done = tried.get(culture, 0)
        chosen += own[: config.candidates][done : done + _size(done, accepted.get(culture, 0), config)]
    return chosen


def take(opinions: Sequence[Opinion], config: QuotaConfig) -> list[Opinion]:
    """All opinions; those of a culture that are accepted beyond the number are set aside.

    Every seed gives its first before any gives its second, so that what is set aside comes off all of them.
    """
    rank: Counter[str] = Counter()
    ranked = []
    for opinion in sorted(opinions, key=lambda o: o.id):
        ranked.append((rank[opinion.seed_id], opinion))
        rank[opinion.seed_id] += opinion.reject is None
    seen: Counter[str] = Counter()
    taken = []
    for _, opinion in sorted(ranked, key=lambda line: line[0]):
        seen[opinion.culture] += opinion.reject is None
        surplus = opinion.reject is None and seen[opinion.culture] > config.accepted
        taken.append(replace(opinion, reject=SURPLUS) if surplus else opinion)
    return sorted(taken, key=lambda o: o.id)


def _size(tried: int, accepted: int, config: QuotaConfig) -> int:
    missing = config.accepted - accepted
    if missing <= 0:
        return 0
    # Where nothing was accepted yet, the next one may be.
    gives = max(accepted, 0.5) / tried if tried else config.guess
    return math.ceil(missing / gives * config.margin)
