import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from cp_ray.evals.distances import emd, interval, jsd

pairs = st.integers(2, 10).flatmap(
    lambda n: st.tuples(*(st.lists(st.floats(0.001, 1), min_size=n, max_size=n) for _ in range(2)))
)


@given(pairs)
def test_distances_equal_scipy_s(pair: tuple[list[float], list[float]]) -> None:
    p, q = ([v / sum(x) for v in x] for x in pair)
    places = np.arange(len(p))
    assert emd(p, q) == pytest.approx(wasserstein_distance(places, places, p, q) / (len(p) - 1), abs=1e-9)
    assert jsd(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)


def test_the_ends_of_the_scale() -> None:
    first, last = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    assert (emd(first, last), jsd(first, last)) == (1.0, 1.0)
    assert (emd(first, first), jsd(first, first)) == (0.0, 0.0)
    assert emd(first, (0.0, 1.0, 0.0)) == 0.5


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for k in range(300):
        found = interval(list(rng.beta(2, 5, size=40)), resamples=400, seed=k)
        assert found.low <= found.mean <= found.high
        covered += found.low <= 2 / 7 <= found.high
    assert 0.90 <= covered / 300 <= 0.98
