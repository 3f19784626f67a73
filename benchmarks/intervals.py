"""How honest the figures are: of equal models how many come out as better, and how often intervals cover the truth.

    python -m benchmarks.intervals [--runs 1000]

Everything is simulated, so that the truth is known. Beside our rule stands the originals': the best of three runs of
one's own model against the worst of three runs of the other.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.results import append
from cp_ray.evals.compare import paired, paired_f1
from cp_ray.evals.f1 import average_interval, drawn, interval_of
from cp_ray.evals.hofstede.figures import figures
from cp_ray.evals.hofstede.formulas import indices
from cp_ray.evals.intervals import Interval, interval, ratio_interval, share_interval, studentised

LABELS = ("NOT", "OFF")
RESAMPLES = 500

Rng = np.random.Generator


def main() -> None:
    """Simulate, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    figures_found: dict[str, float] = {"runs": runs}
    print(f"of {runs} pairs of equal models, A beats B")
    for name, rule in (("survey, ours", _survey), ("macro-F1, ours", _f1), ("macro-F1, originals", _originals)):
        rng = np.random.default_rng(1)
        found = np.mean([rule(rng, k) for k in range(runs)])
        figures_found[f"beats: {name}"] = round(float(found), 3)
        print(f"  {name:<40}{found:8.1%}")
    print(f"95 % intervals that cover the truth, of {runs} evaluations")
    for name, simulate in _INTERVALS.items():
        rng = np.random.default_rng(2)
        found = np.mean([covers for k in range(runs) for covers in simulate(rng, k)])
        figures_found[f"covers: {name}"] = round(float(found), 3)
        print(f"  {name:<40}{found:8.1%}")
    append("intervals", figures_found)


def _survey(rng: Rng, k: int) -> bool:
    hard = rng.beta(2, 8, 10)  # questions are hard for both alike
    first, second = (np.clip(hard + rng.normal(0, 0.05, 10), 0, 1) for _ in range(2))
    return paired(list(first), list(second), seed=k).verdict() == "first"


def _runs(rng: Rng, runs: int) -> tuple[NDArray[np.str_], list[NDArray[np.str_]]]:
    gold = rng.choice(LABELS, 200, p=[0.8, 0.2])
    return gold, [np.where(rng.random(200) < 0.7, gold, rng.choice(LABELS, 200)) for _ in range(runs)]


def _f1(rng: Rng, k: int) -> bool:
    gold, (first, second) = _runs(rng, 2)
    return paired_f1(list(gold), list(first), list(second), LABELS, resamples=RESAMPLES, seed=k).verdict() == "first"


def _originals(rng: Rng, k: int) -> bool:
    gold, said = _runs(rng, 6)
    found = [f1_score(gold, one, labels=LABELS, average="macro", zero_division=0) for one in said]
    return bool(max(found[:3]) > min(found[3:]))


def _covers(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def _mean(n: int) -> Callable[[Rng, int], Iterator[bool]]:
    def simulate(rng: Rng, k: int) -> Iterator[bool]:
        yield _covers(interval(list(rng.beta(2, 8, n)), resamples=RESAMPLES, seed=k), 0.2)

    return simulate


def _skill(rng: Rng, k: int) -> Iterator[bool]:
    under = rng.beta(4, 8, 10)
    over = 0.5 * under + rng.normal(0, 0.08, 10)
    yield _covers(ratio_interval(list(over), list(under), resamples=RESAMPLES, seed=k), 0.5)


def _win_rate(rng: Rng, k: int) -> Iterator[bool]:
    """Wins, ties and losses over 40 pairs."""
    points = rng.choice([1.0, 0.0, -1.0], 40, p=[0.4, 0.3, 0.3])
    yield _covers(interval(list(points), resamples=RESAMPLES, seed=k, bounds=(-1, 1)), 0.1)


def _share(rng: Rng, k: int) -> Iterator[bool]:
    truth = rng.uniform(0.02, 0.98)
    yield _covers(share_interval(int(rng.binomial(200, truth)), 200), truth)


def _drawn(rng: Rng, k: int, n: int) -> tuple[NDArray[np.int64], float]:
    """A confusion matrix of a model that is right in 70 % of 80 % and in 60 % of 20 %, and its true macro-F1."""
    shares = np.array([[0.56, 0.24, 0.0], [0.08, 0.12, 0.0]])
    f1 = [2 * shares[c, c] / (shares[c].sum() + shares[:, c].sum()) for c in (0, 1)]
    return rng.multinomial(n, shares.ravel()).reshape(2, 3), float(np.mean(f1))


def _macro_f1(rng: Rng, k: int) -> Iterator[bool]:
    counts, truth = _drawn(rng, k, 200)
    yield _covers(interval_of(drawn(counts, resamples=RESAMPLES, seed=k)), truth)


def _average(rng: Rng, k: int) -> Iterator[bool]:
    sets = [_drawn(rng, k, 200) for _ in range(3)]
    found = average_interval([drawn(counts, resamples=RESAMPLES, seed=k + j) for j, (counts, _) in enumerate(sets)])
    yield _covers(found, sets[0][1])


def _hofstede(name: str) -> Callable[[Rng, int], Iterator[bool]]:
    """Of 30 people drawn from a population of three cultures, in which a person is alike in every culture."""
    fixed = np.random.default_rng(1)
    means, known = fixed.uniform(2, 4, (3, 1, 24)), fixed.uniform(20, 90, (3, 6))

    def people(rng: Rng, n: int) -> NDArray[np.float64]:
        answers = means + rng.normal(0, 0.2, (1, n, 24)) + rng.normal(0, 0.35, (3, n, 24))
        return indices(np.clip(answers, 1, 5))

    truth = getattr(figures(people(fixed, 200_000), known, np.ones((1, 200_000))), name)[0]

    def simulate(rng: Rng, k: int) -> Iterator[bool]:
        told = people(rng, 30)
        draws = rng.multinomial(30, np.full(30, 1 / 30), RESAMPLES).astype(np.float64)
        found, again = figures(told, known, np.ones((1, 30))), figures(told, known, draws)
        value, error = getattr(found, name)[0], getattr(found, f"{name}_error")[0]
        place = tuple(rng.integers(0, size) for size in value.shape)
        values, errors = (np.moveaxis(getattr(again, of), 0, -1)[place] for of in (name, f"{name}_error"))
        i = studentised(float(value[place]), float(error[place]), values, errors, 30, (-np.inf, np.inf))
        yield _covers(i, float(truth[place]))

    return simulate


_INTERVALS: dict[str, Callable[[Rng, int], Iterator[bool]]] = {
    "mean over 10 questions": _mean(10),
    "mean over 40 questions": _mean(40),
    "skill over 10 questions": _skill,
    "win rate over 40 pairs": _win_rate,
    "share of 200 rows": _share,
    "macro-F1 of 200 rows": _macro_f1,
    "mean macro-F1 of 3 sets": _average,
    "Hofstede's dimension, 30 people": _hofstede("fitted"),
    "Hofstede's distance, 30 people": _hofstede("distance"),
}


if __name__ == "__main__":
    main()
