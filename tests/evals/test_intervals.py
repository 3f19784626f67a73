"""Intervals cover the truth as often as they say, with as few items as there are here."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from cp_ray.evals.intervals import interval, ratio_interval

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

# Distances of one question each: of a good model (near 0, skewed), a poor one, one that is all or nothing.
DISTANCES: dict[str, tuple[Draw, float]] = {
    "near": (lambda rng, n: rng.beta(1.5, 9, n), 1.5 / 10.5),
    "far": (lambda rng, n: rng.beta(4, 6, n), 0.4),
    "skewed": (lambda rng, n: rng.beta(2, 8, n), 0.2),
}


@pytest.mark.parametrize("questions", [10, 40])
@pytest.mark.parametrize("kind", DISTANCES)
def test_95_percent_intervals_of_a_mean_cover_it_in_93_to_97(kind: str, questions: int) -> None:
    draw, truth = DISTANCES[kind]
    rng = np.random.default_rng(1)
    found = [interval(list(draw(rng, questions)), resamples=600, seed=k) for k in range(3000)]
    assert 0.93 <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.97


def test_the_percentile_bootstrap_over_ten_questions_covers_too_seldom() -> None:
    draw, truth = DISTANCES["near"]
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        made = bootstrap((draw(rng, 10),), np.mean, n_resamples=999, method="percentile", rng=rng).confidence_interval
        covered += made.low <= truth <= made.high
    assert covered / 300 < 0.93


@pytest.mark.parametrize("questions", [10, 40])
def test_those_of_a_ratio_too(questions: int) -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for k in range(1000):
        under = rng.beta(4, 8, questions)
        over = 0.5 * under + rng.normal(0, 0.08, questions)
        found = ratio_interval(list(over), list(under), resamples=1000, seed=k)
        covered += found.low <= 0.5 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_an_interval_is_that_of_the_studentised_bootstrap_written_out() -> None:
    values = np.random.default_rng(3).beta(2, 5, size=12)
    found = interval(list(values), resamples=400, seed=7)
    deviations = []
    for pick in np.random.default_rng(7).integers(0, 12, size=(400, 12)):
        own = values[pick]
        deviations.append((own.mean() - values.mean()) / (own.std(ddof=1) / 12**0.5))
    deviations.sort()
    error = values.std(ddof=1) / 12**0.5
    # The 390th and the 10th of 400: shares of 0.975 and 0.025.
    by_hand = (values.mean() - deviations[389] * error, values.mean() - deviations[9] * error)
    assert (found.low, found.high) == pytest.approx(by_hand, abs=1e-12)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)


def test_few_items_say_little_and_equal_items_say_all() -> None:
    one, two, same = (interval(v, resamples=200, seed=0) for v in ([0.3], [0.2, 0.4], [0.1, 0.1, 0.1]))
    assert (one.low, one.mean, one.high) == (0.0, 0.3, 1.0)
    assert (two.low, two.high) == (0.0, 1.0)
    assert (same.low, same.high) == pytest.approx((0.1, 0.1))


def test_what_is_no_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        ratio_interval([1.0], [1.0, 2.0], resamples=100, seed=0)
    with pytest.raises(ValueError, match="under"):
        ratio_interval([1.0, 2.0], [1.0, -1.0], resamples=100, seed=0)
