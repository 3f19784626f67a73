import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from cp_ray.evals.distances import emd, emds, jsd, jsds

pairs = st.integers(2, 10).flatmap(
    lambda n: st.tuples(*(st.lists(st.floats(0.001, 1), min_size=n, max_size=n) for _ in range(2)))
)


@given(pairs)
def test_distances_equal_scipy_s(pair: tuple[list[float], list[float]]) -> None:
    p, q = ([v / sum(x) for v in x] for x in pair)
    places = np.arange(len(p))
    assert emd(p, q) == pytest.approx(wasserstein_distance(places, places, p, q) / (len(p) - 1), abs=1e-9)
    # The divergence itself: near 0 its square root makes 1e-8 out of the last digit's rounding.
    assert jsd(p, q) ** 2 == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


def test_the_ends_of_the_scale() -> None:
    first, last = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    assert (emd(first, last), jsd(first, last)) == (1.0, 1.0)
    assert (emd(first, first), jsd(first, first)) == (0.0, 0.0)
    assert emd(first, (0.0, 1.0, 0.0)) == 0.5


def test_many_distances_at_once_are_those_one_by_one() -> None:
    shares = np.random.default_rng(0).dirichlet([0.4] * 5, size=(2, 20))
    shares[0, 0] = [1, 0, 0, 0, 0]
    assert list(emds(*shares)) == pytest.approx([emd(list(p), list(q)) for p, q in zip(*shares, strict=True)])
    assert list(jsds(*shares)) == pytest.approx([jsd(list(p), list(q)) for p, q in zip(*shares, strict=True)])
