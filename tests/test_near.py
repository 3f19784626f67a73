from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray import near, near_cells
from cp_ray.near import near_duplicates
from cp_ray.near_cells import nearest_cells

Vectors = np.typing.NDArray[np.float32]
Rows = np.typing.NDArray[np.int64]


def unit(vectors: Any) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def planted(rng: np.random.Generator, n: int, copies: int, d: int = 48) -> tuple[Vectors, Rows]:
    """Rows about a few topics, the last `copies` of them near one of the others; of which group each is."""
    topics = unit(rng.normal(size=(max(1, n // 50), d)))
    rows = unit(topics[rng.integers(0, len(topics), n)] + 0.8 * unit(rng.normal(size=(n, d))))
    source = rng.choice(n, copies, replace=False)
    away = unit(rng.normal(size=(copies, d)))
    away = unit(away - (away * rows[source]).sum(axis=1, keepdims=True) * rows[source])
    cosine = rng.uniform(0.955, 0.9999, (copies, 1))
    near_rows = unit(cosine * rows[source] + np.sqrt(1 - cosine**2) * away)
    return np.concatenate([rows, near_rows]), np.concatenate([np.arange(n), source])


def by_brute_force(vectors: Vectors, ids: list[str], tau: float) -> list[int]:
    """One row after the other, against all that were kept."""
    kept: list[int] = []
    behind = [-1] * len(ids)
    for i in sorted(range(len(ids)), key=lambda i: near._precedence(ids[i])):
        like = [k for k in kept if vectors[i] @ vectors[k] >= tau - 1e-6]
        if like:
            behind[i] = like[0]
        else:
            kept.append(i)
    return behind


def names(n: int) -> list[str]:
    return [f"german/Q{k % 7}/{k}" for k in range(n)]


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made for a million rows, for some thousands."""
    monkeypatch.setattr(near_cells, "_SMALLEST", 200)
    monkeypatch.setattr(near_cells, "_CELL", 32)
    monkeypatch.setattr(near, "_FIRST", 64)
    monkeypatch.setattr(near, "_DIRECT", 0)
    monkeypatch.setattr(near, "_TASK", 20_000)


@given(st.integers(0, 9999), st.integers(1, 60), st.integers(0, 3), st.sampled_from([0.8, 0.9, 0.95]), st.data())
def test_it_is_the_greedy_choice_by_hashed_id(seed: int, n: int, bits: int, tau: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n, 3)).round(bits) + 1e-3)  # three dimensions, so that much is near and chains
    near._FIRST, before = data.draw(st.sampled_from([1, 2, 5, 4096])), near._FIRST
    try:
        assert near_duplicates(vectors, names(n), tau).tolist() == by_brute_force(vectors, names(n), tau)
    finally:
        near._FIRST = before


@pytest.mark.parametrize("seed", range(2))
def test_with_cells_all_that_was_planted_is_found_and_nothing_else(small_cells: None, seed: int) -> None:
    vectors, group = planted(np.random.default_rng(seed), 4000, 400)
    behind = near_duplicates(vectors, names(len(vectors)), 0.95)
    removed = np.flatnonzero(behind >= 0)
    assert len(nearest_cells(vectors, np.arange(len(vectors)))[0]) > 1
    assert 396 <= len(removed) <= 400
    assert (group[removed] == group[behind[removed]]).all()
    assert (behind[behind[removed]] == -1).all(), "who stands in front is kept"


def test_the_order_of_the_rows_does_not_matter(small_cells: None) -> None:
    vectors, _ = planted(np.random.default_rng(7), 2000, 300)
    ids = np.array(names(len(vectors)))
    there = near_duplicates(vectors, ids.tolist(), 0.95)
    shuffled = np.random.default_rng(8).permutation(len(ids))
    back = near_duplicates(vectors[shuffled], ids[shuffled].tolist(), 0.95)
    expected = {str(ids[k]): str(ids[b]) for k, b in enumerate(there) if b >= 0}
    assert {str(ids[shuffled[k]]): str(ids[shuffled[b]]) for k, b in enumerate(back) if b >= 0} == expected
    assert len(expected) > 290


def test_ray_tasks_find_the_same(ray_cluster: None, small_cells: None) -> None:
    vectors, _ = planted(np.random.default_rng(3), 2000, 200)
    ids = names(len(vectors))
    assert near_duplicates(vectors, ids, 0.95, on_ray=True).tolist() == near_duplicates(vectors, ids, 0.95).tolist()


@pytest.mark.parametrize("n", [1, 2, 50, 3000])
def test_of_equal_rows_one_is_kept(small_cells: None, n: int) -> None:
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 24))), n, axis=0)
    behind = near_duplicates(vectors, names(n), 1.0)
    assert (behind < 0).sum() == 1
    assert set(behind[behind >= 0].tolist()) <= {int(np.flatnonzero(behind < 0)[0])}


def test_no_rows() -> None:
    assert near_duplicates(np.zeros((0, 8), np.float32), [], 0.95).tolist() == []
    assert near_duplicates(np.eye(4, dtype=np.float32), list("abcd"), 0.8).tolist() == [-1] * 4


@pytest.mark.parametrize("length", [0.0, 1.1, float("nan")])
def test_a_vector_that_is_not_of_unit_length_is_told(length: float) -> None:
    with pytest.raises(ValueError, match="vectors: must be of unit length, got one of"):
        near_duplicates(np.eye(3, dtype=np.float32) * np.float32(length), list("abc"), 0.95)


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "b", "a"]])
def test_ids_that_are_not_one_for_each_row_are_told(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="ids: must be different, one for each of 3 rows"):
        near_duplicates(np.eye(3, dtype=np.float32), ids, 0.95)
