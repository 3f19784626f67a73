"""Answerers that know nothing of a culture, which every model has to beat, and the people themselves."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cp_ray.evals.distances import emds, jsds
from cp_ray.records import Seed
from cp_ray.survey.pooled import scale_means

__all__ = [
    "BASE",
    "BLIND",
    "FIRST",
    "HUMAN",
    "LAST",
    "MODAL",
    "NULLS",
    "OTHERS",
    "SCALE",
    "UNIFORM",
    "Halves",
    "null_answers",
    "split_half",
]

BASE = "base"
"""The model before training."""
UNIFORM = "uniform"
"""Every option is as likely as the others."""
FIRST, LAST = "first", "last"
"""Always the same end of the scale."""
MODAL = "modal"
"""Always what most of the people say. It has seen their answers, so it is no lower bound; it shows how far one can come
without the spread."""
OTHERS = "others"
"""The mean of the other cultures' people: what is common to all."""
SCALE = "scale"
"""The mean of the people's own answers to the training questions that have the same options, whatever is asked; where
there is none, every option alike."""
NULLS = (UNIFORM, FIRST, LAST, MODAL, OTHERS, SCALE)
BLIND = tuple(name for name in NULLS if name != MODAL)
"""Those that have not seen the people's answers to the questions."""

HUMAN = "human"
"""One random half of the people against the other half: nobody can be expected to come nearer."""

Answers = tuple[float, ...]


def null_answers(seeds: Sequence[Seed]) -> Iterator[tuple[str, Seed, Answers]]:
    """What each of `NULLS` answers to each seed.

    `others` only where another culture was asked, `scale` only where there are training questions.
    """
    means = scale_means(seeds)
    asked: dict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        asked[seed.question_id].append(seed)
    for seed in seeds:
        n = len(seed.options)
        yield UNIFORM, seed, (1 / n,) * n
        yield FIRST, seed, _sure(0, n)
        yield LAST, seed, _sure(n - 1, n)
        yield MODAL, seed, _sure(int(np.argmax(seed.distribution)), n)
        rest = [s.distribution for s in asked[seed.question_id] if s.culture != seed.culture]
        if rest:
            yield OTHERS, seed, tuple(float(share) for share in np.mean(rest, axis=0))
        if means:
            yield SCALE, seed, means.get((seed.culture, seed.options), (1 / n,) * n)


@dataclass(frozen=True, slots=True)
class Halves:
    """Mean distances between two random halves of the people who answered a question."""

    emd: float
    jsd: float


def split_half(seed: Seed, *, splits: int, rng_seed: int) -> Halves | None:
    """Halve the respondents at random, `splits` times; None where the survey does not tell how many there were.

    The counts are the distribution times the respondents. Where a culture has several countries, or answers are
    weighted, that takes them as one sample of the same size.
    """
    counts = _counts(seed.distribution, seed.respondents)
    half = int(counts.sum()) // 2
    if half == 0:
        return None
    rng = np.random.default_rng(rng_seed)
    one = rng.multivariate_hypergeometric(counts, half, size=splits, method="marginals")
    # With an odd number one person is left over, and belongs to the other half.
    other = counts - one
    p, q = one / one.sum(axis=1, keepdims=True), other / other.sum(axis=1, keepdims=True)
    return Halves(float(emds(p, q).mean()), float(jsds(p, q).mean()))


def _counts(distribution: Sequence[float], respondents: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Whole numbers that sum to the respondents, by largest remainder."""
    wanted = np.asarray(distribution, dtype=np.float64) * respondents
    counts = np.floor(wanted).astype(np.int64)
    for k in np.argsort(counts - wanted, kind="stable")[: respondents - int(counts.sum())]:
        counts[k] += 1
    return counts


def _sure(place: int, n: int) -> Answers:
    return tuple(float(k == place) for k in range(n))
