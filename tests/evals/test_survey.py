"""Planted answerers get the distances worked out by hand."""

import itertools
from dataclasses import replace

import pytest

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.evals.alignment import ScoreConfig, question_scores, score, summed
from cp_ray.evals.ask import most_telling
from cp_ray.evals.nulls import HUMAN, split_half
from cp_ray.evals.report.figures import summary
from cp_ray.evals.survey import PredictConfig, survey_answers, survey_items
from cp_ray.records import Prediction, Score, Seed, Split

TRUTH = {"Q1": (0.5, 0.5, 0.0), "Q2": (0.0, 0.0, 1.0), "Q3": (0.2, 0.6, 0.2)}
ANSWERERS = {
    "perfect": lambda p: p,
    "reversed": lambda p: p[::-1],
    "constant": lambda p: (1.0, 0.0, 0.0),
}


def seed(
    question: str, shares: tuple[float, ...], culture: str = "german", split: Split = "heldout", people: int = 0
) -> Seed:
    options, id = ("a", "b", "c"), f"{culture}/{question}"
    return Seed(id, culture, "wvs7", question, "t", f"{question}?", options, shares, people, "a", split)


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
    # The answerers that know nothing: always the first option, always the last, always what most people say.
    assert found["first", "emd"].value == found["constant", "emd"].value
    assert found["last", "emd"].value == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert found["modal", "emd"].value == pytest.approx((0.25 + 0 + 0.2) / 3)
    assert not {model for model, _ in found} & {"others", "human"}, "one culture, and nobody tells how many were asked"


def test_held_out_and_trained_questions_are_told_apart() -> None:
    seeds = [seed("Q1", TRUTH["Q1"]), seed("Q2", TRUTH["Q2"], split="train")]
    tasks = {(s.task, s.n) for s in score([], seeds, ScoreConfig())}
    assert tasks == {(f"survey_{split}{topic}", 1) for split in ("heldout", "train") for topic in ("", "/t")}
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


def test_the_mean_of_the_other_peoples_is_an_answerer() -> None:
    seeds = [seed("Q1", (1.0, 0.0, 0.0)), seed("Q1", (0.0, 0.0, 1.0), "arabic"), seed("Q1", (0.0, 1.0, 0.0), "greek")]
    found = {s.culture: s.value for s in score([], seeds, ScoreConfig()) if (s.model, s.metric) == ("others", "emd")}
    # Germans at one end, the others half in the middle and half at the far end.
    assert found == pytest.approx({"german": 0.75, "arabic": 0.75, "greek": 0.5})


def test_a_people_s_mean_on_a_scale_is_an_answerer() -> None:
    seeds = [
        seed("Q1", (1.0, 0.0, 0.0)), seed("Q1", (0.0, 0.0, 1.0), "arabic"), seed("Q1", (0.0, 1.0, 0.0), "greek"),
        seed("Q2", (0.8, 0.2, 0.0), split="train"), seed("Q3", (0.2, 0.8, 0.0), split="train"),
        seed("Q2", (0.0, 0.0, 1.0), "arabic", "train"),
    ]  # fmt: skip
    told = [q for q in question_scores([], seeds, ScoreConfig()) if (q.model, q.question_id) == ("scale", "Q1")]
    # The Germans' is (0.5, 0.5, 0); nothing is known of the Greeks on this scale, so every option is alike.
    assert {q.culture: q.emd for q in told} == pytest.approx({"german": 0.25, "arabic": 0.0, "greek": 1 / 3})


def test_skill_is_0_for_a_uniform_answerer_and_1_for_the_people_themselves() -> None:
    seeds = [seed(q, p, people=400) for q, p in TRUTH.items()]
    config = ScoreConfig(splits=500)
    told = question_scores([], seeds, config)
    human = {q.question_id: q for q in told if q.model == HUMAN}
    assert human["Q2"].emd == 0, "of one mind, so both halves are"
    # Each half of Q1 draws 200 of 400 people: its share differs from the other half's by sqrt(1/400) on average
    # times sqrt(2/pi), and half of that is the distance.
    assert human["Q1"].emd == pytest.approx(0.5 * (400 / 399 / 400) ** 0.5 * (2 / 3.14159) ** 0.5, rel=0.1)
    uniform, perfect = (
        {q.question_id: q for q in told if q.model == "uniform"},
        [Prediction("", "own", "german", "survey_heldout", s.question_id, "", s.distribution) for s in seeds],
    )
    even = [Prediction("", "even", "german", "survey_heldout", s.question_id, "", (1 / 3,) * 3) for s in seeds]
    found = {(s.model, s.metric): s for s in score([*perfect, *even], seeds, config)}
    by_hand = sum(q.emd for q in uniform.values()) / sum(uniform[q].emd - human[q].emd for q in TRUTH)
    assert found["own", "skill_emd"].value == pytest.approx(by_hand)
    assert found["even", "skill_emd"].value == pytest.approx(0, abs=1e-12)
    assert found["even", "skill_jsd"].value == pytest.approx(0, abs=1e-12)
    assert ("uniform", "skill_emd") not in found


def test_halves_are_drawn_from_the_people_there_were() -> None:
    assert split_half(seed("Q1", TRUTH["Q1"]), splits=9, rng_seed=0) is None
    few, many = (split_half(seed("Q1", TRUTH["Q1"], people=n), splits=200, rng_seed=0) for n in (20, 2000))
    assert few is not None
    assert many is not None
    assert few.emd > 5 * many.emd > 0


def test_answers_to_every_way_of_asking_are_averaged_and_their_gaps_kept() -> None:
    rows = [seed("Q1", TRUTH["Q1"])]
    items = survey_items(rows, (CULTURES["german"],), 2)
    assert [item.id for item in items] == [f"german/Q1/{k}" for k in range(4)]
    assert [item.messages[-1].content for item in items[:2]] == ["Q1?\nOptions: a; b; c", "Q1?\nOptions: c; b; a"]
    assert len({item.messages for item in items}) == 4
    said = [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)]
    made = [
        Prediction(f"m/{i.id}", "m", i.culture, i.task, i.id, "", p, lost=0.5) for i, p in zip(items, said, strict=True)
    ]
    (joined,) = survey_answers(made, rows)
    assert (joined.probabilities, joined.output, joined.lost) == ((0.25, 0.5, 0.25), "b", 0.5)
    (own,) = [q for q in question_scores([joined], rows, ScoreConfig()) if q.model == "m"]
    # The first wording's answers lie at opposite ends, the second's are the same; between the wordings' means (half at
    # each end; all in the middle) every answer moves one step of two.
    assert (own.order_gap, own.wording_gap) == (0.5, 0.5)
    found = {s.metric: s.value for s in summed([own], ScoreConfig()) if s.task == "survey_heldout"}
    assert (found["order_stability"], found["wording_stability"]) == (0.5, 0.5)
    lost = replace(made[1], probabilities=(), reject="names no option")
    (partly,) = survey_answers([made[0], lost, *made[2:]], rows)
    assert partly.probabilities == pytest.approx((1 / 3, 2 / 3, 0))
    assert partly.asked == ()
    assert survey_answers([lost], rows)[0].reject == "names no option"
    away = replace(lost, lost=0.0, reject="no answer: gave up: time-out")
    (rest,) = survey_answers([away, *made[2:]], rows)
    assert (rest.probabilities, rest.lost) == ((0, 1, 0), 0.5), "who could not be asked said nothing that names none"
    assert survey_answers([away], rows)[0].lost == 0
    with pytest.raises(ConfigError, match="wordings: must be between 1 and 3, got 4"):
        PredictConfig("smollm2", (), (), wordings=4)


def test_rows_of_an_earlier_run_are_read() -> None:
    told = to_table([Prediction("i", "m", "german", "survey_heldout", "Q1", "a", (0.5, 0.5, 0.0))], Prediction)
    (old,) = from_table(told.drop_columns(["asked", "lost", "reject"]), Prediction)
    assert (old.asked, old.reject) == ((), None)
    assert any(s.model == "m" for s in score([old], [seed("Q1", TRUTH["Q1"])], ScoreConfig()))


def test_a_figure_that_a_people_lacks_leaves_its_place_empty() -> None:
    scores = [
        Score(model, culture, "survey_heldout", "emd", 0.1, 0.0, 0.2, 3)
        for model, culture in (("base", "arabic"), ("base", "german"), ("others", "german"))
    ]
    _, heads, *lines, _ = summary(scores, []).splitlines()
    (others,) = [line for line in lines if "others" in line]
    assert others.index("0.100") == heads.index("german")
    assert others.index("–") == heads.index("arabic")
