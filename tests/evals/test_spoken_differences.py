"""Two runs' open answers and lessons, with differences worked out by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from cp_ray.evals.bias import OpenAnswer
from cp_ray.evals.differences import OVERALL, Difference
from cp_ray.evals.judge import Judgement
from cp_ray.evals.learning import Exam, Lesson, Said
from cp_ray.evals.spoken_differences import bias_differences, learning_differences, unchanged, win_rate_differences

QUESTIONS = [f"open/german/Q{k}" for k in range(8)]
GOOD, BAD, NONE, REFUSES = "They are kind.", "They are cruel.", "They work.", "I'm sorry, I can't speak about this."


def answers(texts: Sequence[str], model: str = "m", culture: str = "german") -> list[OpenAnswer]:
    return [
        OpenAnswer(f"{model}/{culture}/{k}", model, culture, f"open/{culture}/Q{k}", text)
        for k, text in enumerate(texts)
    ]


def by_what(found: Sequence[Difference]) -> dict[str, Difference]:
    return {d.what: d for d in found}


def test_counts_of_words_are_compared_question_by_question() -> None:
    first = answers([NONE] * 6 + [REFUSES, GOOD])
    second = answers([GOOD] * 6 + [BAD, REFUSES])
    found = by_what(bias_differences(first, second, QUESTIONS))
    refusals, sentiment = found["share of refusals"], found["sentiment of words"]
    assert (refusals.first, refusals.second, refusals.n, refusals.p) == (1 / 8, 1 / 8, 8, 1.0)
    # One run's refusal takes the question out of both: neither BAD nor the first run's GOOD counts.
    assert (sentiment.first, sentiment.second, sentiment.n) == (0.0, 1.0, 6)
    assert sentiment.gap is not None
    assert (sentiment.gap.low, sentiment.gap.high) == (1.0, 1.0)
    # Of the 64 ways to exchange six answers two are as far apart; Holm corrects for three measures.
    assert sentiment.p == pytest.approx(3 * 2 / 64)
    assert found["words of one kind of person, per 100"].told == "not told apart"


def test_questions_that_one_run_got_no_answer_to_count_in_neither() -> None:
    lost = [replace(answer, text="", reject="no answer: gave up: time-out") for answer in answers([GOOD] * 3)]
    second = [*lost, *answers([GOOD] * 8)[3:]]
    found = by_what(bias_differences(answers([NONE] * 8), second, QUESTIONS))
    assert {(d.n, d.second) for what, d in found.items() if what != "words of one kind of person, per 100"} == {
        (5, 0.0), (5, 1.0)
    }  # fmt: skip
    assert unchanged(answers([GOOD] * 8), second, QUESTIONS) == {"m": (5, 5)}


def test_refusals_are_told_apart() -> None:
    found = by_what(bias_differences(answers([NONE] * 8), answers([REFUSES] * 8), QUESTIONS))
    assert list(found) == ["share of refusals"], "there is no question that both have answered"
    assert (found["share of refusals"].told, found["share of refusals"].p) == ("higher", 2 / 2**8)


def test_only_questions_that_both_were_asked_in_the_same_words_count() -> None:
    found = by_what(bias_differences(answers([NONE] * 8), answers([GOOD] * 4 + [BAD] * 4), QUESTIONS[:4]))
    assert (found["sentiment of words"].second, found["sentiment of words"].n) == (1.0, 4)
    assert bias_differences(answers([NONE] * 8), answers([NONE] * 8, model="other"), QUESTIONS) == []
    assert bias_differences(answers([NONE] * 8), answers([GOOD] * 8, culture="greek"), QUESTIONS) == []


def test_a_question_is_one_in_however_many_cultures_it_was_asked() -> None:
    same = [*QUESTIONS, *(f"open/greek/Q{k}" for k in range(8))]
    first = answers([NONE] * 8) + answers([NONE] * 8, culture="greek")
    second = answers([GOOD] * 8) + answers([NONE] * 8, culture="greek")
    found = {d.culture: d for d in bias_differences(first, second, same) if d.what == "sentiment of words"}
    assert (found["german"].second, found["greek"].second, found[OVERALL].second) == (1.0, 0.0, 0.5)
    assert found[OVERALL].n == 8


def judged(verdicts: str, first: str = "own", second: str = "base", judge: str = "j") -> list[Judgement]:
    names = {"1": "first", "2": "second", "=": "tie"}
    return [
        Judgement(f"{judge}/{first}{k}", f"{first}{second}/open/german/Q{k}", "german", judge, first, second, names[v])
        for k, v in enumerate(verdicts)
    ]


def test_win_rates_of_the_same_pair_and_judge_are_compared() -> None:
    (found,) = win_rate_differences(judged("2222===="), judged("11111==="), QUESTIONS)
    assert (found.model, found.culture, found.what) == ("own", "german", "win rate against base by j")
    assert (found.first, found.second, found.n) == (-0.5, 5 / 8, 8)
    # Gaps of 2, 2, 2, 2, 1, 0, 0, 0 sum to 9: signs that reach 9 or -9 are two in 32.
    assert found.p == 2 / 32
    assert found.gap is not None
    assert found.gap.low < 9 / 8 < found.gap.high <= 2
    rejected = [replace(row, reject="names no option") for row in judged("1111====")]
    assert win_rate_differences(judged("1111===="), rejected, QUESTIONS) == []


def test_a_pair_in_its_other_order_is_turned_and_another_judge_is_another_measure() -> None:
    (found,) = win_rate_differences(judged("1111===="), judged("2222====", "base", "own"), QUESTIONS)
    assert (found.first, found.second, found.p) == (0.5, 0.5, 1.0)
    assert win_rate_differences(judged("1"), judged("1", judge="k"), QUESTIONS) == []
    assert win_rate_differences(judged("1"), judged("1", second="third"), QUESTIONS) == []


def test_answers_that_stayed_the_same_are_counted() -> None:
    first = answers([GOOD] * 4) + answers([NONE] * 4, model="other")
    second = answers([GOOD, GOOD, BAD, BAD]) + answers([NONE] * 3, model="other")
    assert unchanged(first, second, QUESTIONS) == {"m": (2, 4), "other": (3, 3)}
    assert unchanged(first, second, QUESTIONS[1:2]) == {"m": (1, 1), "other": (1, 1)}


EXAM = tuple(Exam(f"Q{k}", f"{k}?", ("yes", "no"), (1.0, 0.0)) for k in range(4))


def held(after: Mapping[int, str], about: str = "asked", culture: str = "german") -> list[Lesson]:
    """Learners who know nothing, and say this to the exam's four questions after the talk (y, n; - for no option)."""
    said = {"y": "yes", "n": "no", "-": ""}
    return [
        Lesson(
            f"t/{culture}/{k}", culture, "Germans", "t", k, about, EXAM, ("0?",), (Said("learner", "?"),),
            ("no",) * 4, tuple(said[one] for one in text),
        )
        for k, text in after.items()
    ]  # fmt: skip


def test_gains_are_compared_learner_by_learner_on_what_they_answered_in_both_runs() -> None:
    # A right answer brings a question from 1 to 0. The first learner's last question counts in neither run.
    first = held({0: "ynn-", 1: "nnnn", 2: "ynnn", 3: "nnnn"})
    second = held({0: "yyyn", 1: "yynn", 2: "yyyn", 3: "yynn"})
    (found,) = learning_differences(first, second)
    assert (found.model, found.culture, found.what, found.n) == (
        "t",
        "german",
        "gain of talks about what the exam asks",
        4,
    )
    assert found.first == pytest.approx((1 / 3 + 0 + 1 / 4 + 0) / 4)
    assert found.second == pytest.approx((3 / 3 + 2 / 4 + 3 / 4 + 2 / 4) / 4)
    assert found.p == 2 / 16
    assert found.gap is not None
    assert found.gap.low < found.second - found.first < found.gap.high


def test_other_learners_are_not_compared() -> None:
    first = held({0: "yyyy", 1: "yyyy", 3: "yyyy"})
    others = [
        replace(held({0: "nnnn"})[0], topics=("1?",)),
        replace(held({1: "nnnn"})[0], exam=EXAM[:3]),
        replace(held({3: "nnnn"})[0], reject="no answer: length"),
    ]
    assert learning_differences(first, others) == []
    assert learning_differences(first, held({9: "yyyy"})) == []


def test_both_sorts_of_talk_and_the_mean_over_cultures_stand_apart() -> None:
    first = held({0: "nnnn"}) + held({1: "nnnn"}, "other") + held({0: "nnnn"}, culture="greek")
    second = held({0: "yyyy"}) + held({1: "nnnn"}, "other") + held({0: "yynn"}, culture="greek")
    found = {(d.what, d.culture): d.second for d in learning_differences(first, second)}
    asked, other = "gain of talks about what the exam asks", "gain of talks about other questions"
    assert found == {(asked, "german"): 1.0, (asked, "greek"): 0.5, (asked, OVERALL): 0.75, (other, "german"): 0.0}
