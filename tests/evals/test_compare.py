"""Two runs of one model are seldom told apart; the originals' rule nearly always does it."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import f1_score

from cp_ray.evals.compare import difference, holm, paired, paired_f1


def test_of_1000_pairs_of_equal_models_at_most_5_percent_come_out_as_better() -> None:
    rng, better = np.random.default_rng(1), 0
    for k in range(1000):
        hard = rng.beta(2, 8, 10)  # questions are hard for both alike
        first, second = (np.clip(hard + rng.normal(0, 0.05, 10), 0, 1) for _ in range(2))
        better += paired(list(first), list(second), seed=k).verdict() == "first"
    assert better <= 50


def test_nor_by_their_macro_f1() -> None:
    rng, better = np.random.default_rng(2), 0
    for k in range(1000):
        gold = rng.choice(["NOT", "OFF"], 200, p=[0.8, 0.2])
        first, second = (np.where(rng.random(200) < 0.7, gold, rng.choice(["NOT", "OFF"], 200)) for _ in range(2))
        found = paired_f1(list(gold), list(first), list(second), ("NOT", "OFF"), resamples=500, seed=k)
        better += found.verdict() == "first"
    assert better <= 50


def test_the_originals_rule_says_better_of_nearly_every_pair_of_equal_models() -> None:
    """Their aggregator keeps the best run of their own model and the worst run of the others."""
    rng, better = np.random.default_rng(3), 0
    for _ in range(1000):
        gold = rng.choice(["NOT", "OFF"], 200, p=[0.8, 0.2])
        runs = np.where(rng.random((6, 200)) < 0.7, gold, rng.choice(["NOT", "OFF"], (6, 200)))
        f1 = [_f1(gold == "OFF", run == "OFF") for run in runs]
        better += max(f1[:3]) > min(f1[3:])
    assert 0.93 <= better / 1000 <= 0.97


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(4)
    near, far = rng.beta(2, 12, 10), rng.beta(6, 8, 10)
    found = paired(list(near), list(far))
    assert found.verdict() == "second"
    assert found.difference == pytest.approx(float((near - far).mean()))
    gap = difference(list(near), list(far), resamples=1000, seed=0)
    assert gap.low < found.difference < gap.high < 0


def test_the_p_value_of_few_items_is_scipy_s_exact_one() -> None:
    gaps = np.random.default_rng(5).normal(0.02, 0.05, 9)
    theirs = permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert paired(list(gaps), [0.0] * 9).p == pytest.approx(theirs, abs=1e-9)


def test_with_every_exchange_written_out_macro_f1_has_the_same_p() -> None:
    gold = ["N", "O", "O", "N", "O", "N", "O"]
    first = ["N", "O", "O", "N", "O", "N", "N"]
    second = ["O", "N", "O", "N", "N", "N", None]
    gaps = []
    for swap in itertools.product([False, True], repeat=7):
        pairs = [(b, a) if s else (a, b) for a, b, s in zip(first, second, swap, strict=True)]
        one, other = ([p[k] or "-" for p in pairs] for k in (0, 1))
        f1 = [f1_score(gold, said, labels=["N", "O"], average="macro", zero_division=0) for said in (one, other)]
        gaps.append(f1[0] - f1[1])
    exact = np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-12)
    found = paired_f1(gold, first, second, ("N", "O"), resamples=20_000)
    assert found.difference == pytest.approx(gaps[0], abs=1e-9)
    assert found.p == pytest.approx(exact, abs=0.02)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_models_must_have_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired([0.1], [0.1, 0.2])


def test_what_is_no_number_is_not_better_or_worse() -> None:
    with pytest.raises(ValueError, match="finite"):
        paired([0.1, math.nan], [0.1, 0.2])


def _f1(
    true: "np.ndarray[tuple[int], np.dtype[np.bool_]]", said: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
) -> float:
    """Macro-F1 of two classes."""
    parts = [2 * (t & s).sum() / max(1, t.sum() + s.sum()) for t, s in ((true, said), (~true, ~said))]
    return float(np.mean(parts))
