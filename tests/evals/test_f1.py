"""Macro-F1 is scikit-learn's, and its interval covers the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from cp_ray.evals.f1 import average_interval, confusion, drawn, interval_of, macro_f1

LABELS = ("NOT", "OFF", "HS")
rows = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=60
)  # fmt: skip


@given(rows)
def test_macro_f1_equals_scikit_learn_s(pairs: list[tuple[str, str | None]]) -> None:
    gold, chosen = [g for g, _ in pairs], [c for _, c in pairs]
    said = [c or "none of them" for c in chosen]
    theirs = f1_score(gold, said, labels=LABELS, average="macro", zero_division=0)
    assert macro_f1(confusion(gold, chosen, LABELS)) == pytest.approx(theirs, abs=1e-9)


def test_by_hand_with_an_answer_that_names_no_label() -> None:
    counts = confusion(["NOT", "NOT", "OFF", "OFF"], ["NOT", "OFF", "OFF", None], ("NOT", "OFF"))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert macro_f1(counts) == pytest.approx((2 / 3 + 2 / 4) / 2)


SETS = (
    ((0.45, 0.15, 0.0), (0.15, 0.23, 0.02)),
    ((0.65, 0.13, 0.02), (0.08, 0.12, 0.0)),
    ((0.30, 0.10, 0.05, 0.0), (0.10, 0.20, 0.05, 0.0), (0.05, 0.05, 0.10, 0.0)),
)
"""Shares of the cells of confusion matrices."""


@pytest.mark.parametrize("cells", SETS)
def test_its_interval_covers_the_truth_in_93_to_97_percent(cells: tuple[tuple[float, ...], ...]) -> None:
    shares = np.array(cells)
    truth = macro_f1((shares * 10**6).round().astype(np.int64))
    rng, covered = np.random.default_rng(1), 0
    for k in range(1000):
        counts = rng.multinomial(200, shares.ravel()).reshape(shares.shape)
        found = interval_of(drawn(counts, resamples=500, seed=k))
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_interval_of_an_average_over_sets_covers_the_truth_in_93_to_97_percent() -> None:
    shares = [np.array(cells) for cells in SETS]
    truth = np.mean([macro_f1((one * 10**6).round().astype(np.int64)) for one in shares])
    rng, covered = np.random.default_rng(2), 0
    for k in range(1000):
        counts = [rng.multinomial(60, one.ravel()).reshape(one.shape) for one in shares]
        found = average_interval([drawn(one, resamples=400, seed=3 * k + j) for j, one in enumerate(counts)])
        covered += int(found.low <= truth <= found.high)
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_average_of_one_set_is_that_set() -> None:
    one = drawn(np.array([[30, 6, 1], [4, 9, 0]]), resamples=500, seed=0)
    assert average_interval([one]) == interval_of(one)


def test_the_standard_error_is_the_spread_of_the_figure() -> None:
    found = drawn(np.array([[300, 60, 5], [40, 90, 5]]), resamples=20_000, seed=0)
    assert found.error == pytest.approx(found.values.std(), rel=0.02)


def test_an_unknown_true_label_is_refused() -> None:
    with pytest.raises(ValueError, match="'XX'"):
        confusion(["XX"], ["OFF"], ("NOT", "OFF"))
