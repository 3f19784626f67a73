"""Planted answerers get the distances worked out by hand."""

import itertools

import pytest

from cp_ray.errors import ConfigError
from cp_ray.evals.ask import most_telling
from cp_ray.evals.survey import ScoreConfig, score
from cp_ray.records import Prediction, Seed, Split

TRUTH = {"Q1": (0.5, 0.5, 0.0), "Q2": (0.0, 0.0, 1.0), "Q3": (0.2, 0.6, 0.2)}
ANSWERERS = {
    "perfect": lambda p: p,
    "reversed": lambda p: p[::-1],
    "constant": lambda p: (1.0, 0.0, 0.0),
}


def seed(question: str, shares: tuple[float, ...], culture: str = "german", split: Split = "heldout") -> Seed:
    options = ("a", "b", "c")
    return Seed(f"{culture}/{question}", culture, "wvs7", question, "t", f"{question}?", options, shares, 9, "a", split)


SEEDS = [seed(q, p) for q, p in TRUTH.items()]


def test_planted_answerers() -> None:
    predictions = [
        Prediction(f"{m}/{s.id}", m, "german", "survey_heldout", s.question_id, "a", answer(s.distribution))
        for (m, answer), s in itertools.product(ANSWERERS.items(), SEEDS)
    ]
    found = {(s.model, s.metric): s for s in score(predictions, SEEDS, ScoreConfig())}
    assert found["perfect", "emd"].value == 0
    assert found["perfect", "jsd"].value == pytest.approx(0, abs=1e-8)
    # Q1 reversed: half the answers move one step and half move one, of two; Q2: all move two; Q3: symmetric.
    assert found["reversed", "emd"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["constant", "emd"].value == pytest.approx((0.25 + 1 + 0.5) / 3)
    third = 1 / 3
    by_hand = [(third - 0.5, 2 * third - 1), (third, 2 * third), (third - 0.2, 2 * third - 0.8)]
    assert found["uniform", "emd"].value == pytest.approx(sum((abs(a) + abs(b)) / 2 for a, b in by_hand) / 3)
    assert all(s.n == 3 and s.low <= s.value <= s.high for s in found.values())


def test_held_out_and_trained_questions_are_told_apart() -> None:
    seeds = [seed("Q1", TRUTH["Q1"]), seed("Q2", TRUTH["Q2"], split="train")]
    assert {(s.task, s.n) for s in score([], seeds, ScoreConfig())} == {("survey_heldout", 1), ("survey_train", 1)}
    with pytest.raises(ConfigError, match="resamples"):
        ScoreConfig(resamples=3)


def test_the_most_telling_question_is_where_peoples_differ_most() -> None:
    seeds = [
        seed("Q1", (0.5, 0.5, 0.0)), seed("Q1", (0.4, 0.6, 0.0), "arabic"),
        seed("Q2", (0.9, 0.1, 0.0)), seed("Q2", (0.0, 0.1, 0.9), "arabic"),
        seed("Q9", (1.0, 0.0, 0.0), split="train"), seed("Q9", (0.0, 0.0, 1.0), "arabic", "train"),
    ]  # fmt: skip
    assert most_telling(seeds).question_id == "Q2"
    assert most_telling(seeds[:1]).question_id == "Q1"
