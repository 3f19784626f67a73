import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.diversity import diversity_gain, nearest_distances


@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_it_is_the_mean_of_the_smallest_distances(seed: int, m: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    new, original = rng.normal(size=(m, d)).astype(np.float32), rng.normal(size=(n, d)).astype(np.float32)
    smallest = np.linalg.norm(new[:, None] - original[None], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest_distances(new, original), smallest, rtol=1e-4, atol=1e-5)
    assert diversity_gain(new, original) == pytest.approx(smallest.mean(), rel=1e-4, abs=1e-5)


def test_what_was_there_before_gains_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    assert diversity_gain(rows[::-1], rows) == 0.0
    assert diversity_gain(rows[:1], rows[:1]) == 0.0
    assert diversity_gain(-np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)) == pytest.approx(np.sqrt(2))


def test_no_rows_are_told() -> None:
    rows, none = np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32)
    assert nearest_distances(none, rows).shape == (0,)
    with pytest.raises(ValueError, match="new: must have at least one row"):
        diversity_gain(none, rows)
    with pytest.raises(ValueError, match="original: must have at least one row"):
        diversity_gain(rows, none)
    with pytest.raises(ValueError, match="must be"):
        diversity_gain(rows, rows[:, :2])
