"""Two runs' dimensions by hand, and how often the intervals and the tests are right."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr

from cp_ray.evals.differences import OVERALL
from cp_ray.evals.hofstede.correlations import pearsons, pulls_on_pearsons, spearmans
from cp_ray.evals.hofstede.differences import correlation_differences, distance_differences
from cp_ray.evals.hofstede.figures import added_to_means, means_of
from cp_ray.evals.hofstede.formulas import indices
from cp_ray.evals.hofstede.scores import ALL, Truth

Array = NDArray[np.float64]
TWO = (Truth("german", (40.0, *[None] * 5)), Truth("korean", (60.0, *[None] * 5)))
"""Their power distance alone is known."""


def said(people: int = 30, m07: float = 3.0) -> Array:
    """Everybody says 3 to everything, and this to item 7, a point of which is 35 points of power distance."""
    answers = np.full((people, 24), 3.0)
    answers[:, 6] = m07
    return answers


def test_a_distance_s_difference_by_hand() -> None:
    """The Germans' constant is the Koreans' published score less their index: 60, then 60 - 35; 40 is right."""
    first = {"own": {"german": said(), "korean": said()}, "base": {"german": said()}}
    second = {"own": {"german": said(), "korean": said(m07=4.0)}, "told": {"german": said()}}
    (found,) = distance_differences(first, second, TWO)
    assert (found.model, found.culture, found.n, found.told) == ("own", OVERALL, 30, "lower")
    assert (found.first, found.second) == pytest.approx((20, 15))
    assert found.gap is not None
    # Everybody moves by the same: nothing is uncertain, and none of 10,000 drawings of signs comes as far from 0.
    assert (found.gap.low, found.gap.mean, found.gap.high) == pytest.approx((-5, -5, -5))
    assert found.p == pytest.approx(1 / 10_001)
    (same,) = distance_differences(first, first, TWO)
    assert (same.first, same.second, same.p, same.told) == (20, 20, 1.0, "not told apart")


def test_only_answers_that_both_runs_have_count() -> None:
    """Half of the Koreans say 5 where the other run lost their answers: they count in neither."""
    korean = said(m07=4.0)
    korean[::2, 6] = 5.0
    lost = said()
    lost[::2, 6] = np.nan
    (found,) = distance_differences(
        {"own": {"german": said(), "korean": lost}}, {"own": {"german": said(), "korean": korean}}, TWO
    )
    assert (found.first, found.second) == pytest.approx((20, 15))


def test_distances_are_of_the_cultures_that_both_have() -> None:
    """With the Turks in one run alone the Germans' constant hangs on the Koreans in both."""
    truth = (*TWO, Truth("turkish", (90.0, *[None] * 5)))
    first = {"own": {"german": said(), "korean": said(), "turkish": said()}}
    second = {"own": {"german": said(), "korean": said()}}
    (found,) = distance_differences(first, second, truth)
    assert (found.first, found.second) == (20, 20)
    three = distance_differences(first, first, truth)
    # |60 + 90| / 2 - 40, |40 + 90| / 2 - 60, |40 + 60| / 2 - 90, and their mean.
    assert {d.culture: d.first for d in three} == pytest.approx(
        {"german": 35, "korean": 5, "turkish": 40, OVERALL: 80 / 3}
    )


def people(means: Array, rng: np.random.Generator, n: int = 30) -> list[Array]:
    """Answers of two runs, [cultures, n, 24] each; a person is alike in every culture and in both runs."""
    alike = rng.normal(0, 0.2, (1, n, 24))
    return [np.clip(one + alike + rng.normal(0, 0.35, (len(one), n, 24)), 1, 5) for one in means]


def test_a_correlation_s_difference_is_scipy_s_and_its_slope_that_of_small_steps() -> None:
    rng = np.random.default_rng(0)
    truth = [Truth(str(c), tuple(rng.uniform(20, 90, 6))) for c in range(5)]
    known = np.array([t.scores for t in truth], dtype=np.float64)
    first, second = people(rng.uniform(2, 4, (2, 5, 1, 24)), rng)
    runs = [{"own": {str(c): one[c] for c in range(5)}} for one in (first, second)]
    found = correlation_differences(runs[0], runs[1], truth)
    assert [(d.what, d.culture) for d in found[:2]] == [("pearson_pdi", ALL), ("pearson_idv", ALL)]
    for d, row in enumerate(found):
        for value, one in ((row.first, first), (row.second, second)):
            assert value == pytest.approx(pearsonr(indices(one).mean(axis=1)[:, d], known[:, d]).statistic)
        assert row.gap is not None
        assert row.gap.low < row.second - row.first < row.gap.high
    told, once, step = indices(first), np.ones((1, 30)), 1e-6
    means = means_of(told, once)
    pulls = pulls_on_pearsons(means, added_to_means(told, means, once), known)
    for person in range(3):
        more = once.copy()
        more[0, person] += step
        moved = (pearsons(means_of(told, more), known) - pearsons(means, known)) / step
        assert pulls[0, :, person] == pytest.approx(moved[0], abs=1e-5)


def test_correlations_need_three_cultures_that_vary() -> None:
    first = {"own": {"german": said(), "korean": said(m07=4.0)}}
    assert correlation_differences(first, first, TWO) == []
    level = np.zeros((1, 3, 6))
    assert np.isnan(pearsons(level, np.arange(18.0).reshape(3, 6))).all()
    assert np.isnan(spearmans(level, np.arange(18.0).reshape(3, 6))).all()


def test_intervals_cover_the_truth_and_equal_runs_are_told_apart_in_one_of_twenty() -> None:
    """Of 30 people drawn from a population, in two runs that are equal; 4.3 standard errors around 95 and 5 %."""
    rng = np.random.default_rng(1)
    one = rng.uniform(2, 4, (3, 1, 24))
    truth = [Truth(str(c), tuple(rng.uniform(20, 90, 6))) for c in range(3)]
    covered, apart = [], []
    for k in range(150):
        first, second = ({"m": {str(c): run[c] for c in range(3)}} for run in people(np.array([one, one]), rng))
        for compare in (distance_differences, correlation_differences):
            rows = compare(first, second, truth, resamples=300, seed=k)
            covered += [row.gap.low <= 0 <= row.gap.high for row in rows if row.gap]
            # Corrected for the number of rows; the least is then at most 0.05 in one of twenty evaluations at most.
            apart.append(min(row.p for row in rows) <= 0.05)
    assert len(covered) == 150 * 10
    assert 0.926 <= np.mean(covered) <= 0.974
    assert np.mean(apart) <= 0.1
