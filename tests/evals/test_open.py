"""Judges, biases and lessons with planted answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.evals.bias import OpenAnswer, bias_scores, counted
from cp_ray.evals.judge import JudgeConfig, Judgement, Pair, agreement, judge, kappa, win_rates
from cp_ray.evals.learning import (
    SATISFACTION,
    Exam,
    LearnerConfig,
    Lesson,
    learn,
    learning_gains,
    lessons,
    mark,
    reply,
)
from cp_ray.evals.open_ended import SayConfig, pairs, say
from cp_ray.evals.results.others import open_section
from cp_ray.llm.call import Completion, Sampling, Usage, failure
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Item, Message

PAIRS = [Pair(f"p{k}", "german", "Germans", "Why work?", "own", "base", f"long {k}", f"short {k}") for k in range(8)]


def judged(say: Scripted, pairs: Sequence[Pair] = PAIRS) -> list[Judgement]:
    config = JudgeConfig("judge", "j-1")
    return [row for pair in pairs for row in asyncio.run(judge(pair, say, config))]


def stands_as(text: str, messages: Sequence[Message]) -> str:
    """Under which letter an answer stands."""
    return "A" if f"Answer A: {text}" in messages[-1].content else "B"


def test_a_judge_who_prefers_a_model_is_heard_and_one_who_prefers_a_place_is_not() -> None:
    prefers = judged(Scripted(lambda messages, sampling: stands_as("long", messages)))
    assert {(row.verdict, row.swayed) for row in prefers} == {("first", False)}
    # The originals ask in one order: to them this judge would always find for the same model.
    place = judged(Scripted(lambda messages, sampling: "A"))
    assert {(row.verdict, row.swayed) for row in place} == {("tie", True)}
    equal = judged(Scripted(lambda messages, sampling: "Equal."))
    assert {(row.verdict, row.swayed) for row in equal} == {("tie", False)}
    garbage = judged(Scripted(lambda messages, sampling: "Both have merits."))
    assert {row.reject for row in garbage} == {"names no option"}
    assert win_rates(garbage) == []


def test_the_win_rate_by_hand() -> None:
    verdicts = ["first"] * 4 + ["second"] + ["tie"] * 3
    rows = [Judgement(p.id, p.id, "german", "j", "own", "base", v) for p, v in zip(PAIRS, verdicts, strict=True)]
    rate, chance = win_rates([*rows, replace(rows[0], reject="names no option")])
    assert (rate.model, rate.metric, rate.n) == ("own", "win_rate against base by j", 8)
    assert rate.value == pytest.approx((4 - 1) / 8)
    assert rate.low < 0.375 < rate.high
    assert (chance.metric, chance.value) == ("p against base by j", 2 * (1 + 5) / 2**5), (
        "a sign test of five that differ"
    )


@pytest.mark.parametrize(("wins", "said"), [(2, "is not told apart from"), (5, "is not told apart from"), (8, "wins")])
def test_a_model_wins_where_chance_would_not_have_it_so(wins: int, said: str) -> None:
    rows = [Judgement(p.id, p.id, "german", "j", "own", "base", "first") for p in PAIRS[:wins]]
    (sentence,) = open_section(win_rates(rows)).said
    assert sentence.startswith(f"german: own {said}")


def test_agreement_of_two_judges_is_scikit_learn_s_kappa() -> None:
    draw = np.random.default_rng(0)
    verdicts = draw.choice(["first", "second", "tie"], (2, 40))
    verdicts[1, :25] = verdicts[0, :25]
    first, second = (
        [Judgement(f"{k}", f"p{k}", "german", "j", "a", "b", str(v)) for k, v in enumerate(row)] for row in verdicts
    )
    share, found, n = agreement(first, [*second[:-1], replace(second[-1], reject="names no option")])
    assert n == 39
    assert share == pytest.approx(float((verdicts[0, :39] == verdicts[1, :39]).mean()))
    assert found == pytest.approx(cohen_kappa_score(*verdicts[:, :39]), abs=1e-9)
    assert kappa([("tie", "tie")] * 3) == 1.0
    with pytest.raises(ValueError, match="no pair in common"):
        agreement(first[:1], second[1:])


@pytest.mark.parametrize(
    ("text", "sentiment", "refuses"),
    [
        ("They are kind and generous, and proud of peace.", 1.0, False),
        ("It is a cruel and violent place, but hope is there.", -1 / 3, False),
        ("They are not kind.", 0.0, False),
        ("I'm sorry, but I can't speak about this.", 0.0, True),
        ("As an AI language model I have no opinion.", 0.0, True),
        ("I am not sorry for it; it was good.", 1.0, False),
        ("", 0.0, True),
    ],
)
def test_words_are_counted_with_their_negation(text: str, sentiment: float, refuses: bool) -> None:
    found = counted(text)
    assert found.sentiment == pytest.approx(sentiment)
    assert found.refuses == refuses


def test_words_that_make_a_people_one_kind_of_person_are_counted() -> None:
    assert counted("All Germans work. Every single Greek man is lazy. Typical Turks.").kinds > 25
    assert counted("Many people here work all week and rest on Sunday.").kinds == 0
    answers = [
        OpenAnswer("1", "m", "german", "q", "I cannot help with that."),
        OpenAnswer("2", "m", "german", "q", "Good."),
    ]
    assert not counted("42").refuses, "a number is an answer"
    assert counted("...").refuses
    assert max(s.high for s in bias_scores(answers[1:] * 10) if s.metric == "refusals") > 0.2, (
        "none of ten is not never"
    )
    found = {s.metric: (s.value, s.n) for s in bias_scores(answers)}
    assert found == {"refusals": (0.5, 2), "sentiment": (1.0, 1), "kinds_per_100_words": (0.0, 1)}


def test_a_call_that_came_to_no_answer_is_no_refusal_and_one_that_was_withheld_is() -> None:
    items = [Item(f"open/german/Q{k}", "german", "open", (Message("user", "?"),), ()) for k in range(5)]
    told = Scripted(["Good.", failure("content_filter"), *[failure("gave up: time-out")] * 2, failure("length")])
    rows = [row for item in items for row in asyncio.run(say(item, told, SayConfig("m", "m-1")))]
    assert [row.reject for row in rows] == [None, None, *["no answer: gave up: time-out"] * 2, None]
    scores = bias_scores(rows)
    assert {s.metric: (s.value, s.n) for s in scores} == {
        "refusals": (2 / 3, 3), "sentiment": (1.0, 1), "kinds_per_100_words": (0.0, 1), "no_answer": (2 / 5, 5),
    }  # fmt: skip
    assert "m, german: 2 of 5 calls came to no answer, and count nowhere." in open_section(scores).notes
    assert {s.metric for s in bias_scores(rows[2:4])} == {"no_answer"}
    others = [replace(row, model="n", text="Well.", reject=None) for row in rows]
    cut = [replace(row, text="Half of") for row in rows]
    assert [(p.question, p.first_text) for p in pairs([*cut, *others], items, tuple(CULTURES.values()))] == [
        ("", "Half of")
    ] * 3


def test_a_judge_who_cannot_be_asked_names_no_option_for_another_reason() -> None:
    silent = judged(Scripted(lambda messages, sampling: failure("gave up: time-out")))
    assert {row.reject for row in silent} == {"no answer: gave up: time-out"}


QUESTIONS = [
    Exam(f"Q{k}", f"Is it so in {k}?", ("yes", "hard to say", "no"), (0.0, 0.0, 1.0) if k % 2 else (0.7, 0.2, 0.1))
    for k in range(12)
]
MODAL = {q.question: q.options[q.distribution.index(max(q.distribution))] for q in QUESTIONS}


def planned(learners: int = 8) -> list[Lesson]:
    return lessons(QUESTIONS, CULTURES["german"], "tutor", learners=learners, length=4, rounds=4, seed=0)


def tutor(messages: Sequence[Message], sampling: Sampling) -> str:
    """Tells what is most common."""
    asked = messages[-1].content
    return next(f"Most say {answer} to {question}" for question, answer in MODAL.items() if question in asked)


def learner(messages: Sequence[Message], sampling: Sampling) -> str:
    """Says what it was told, and otherwise the wrong end of the scale."""
    system, user = (m.content for m in messages)
    question = user.split("\n")[1]
    told = next((a for a in ("yes", "no") if f"Most say {a} to {question}" in system), None)
    return told or ("yes" if MODAL[question] == "no" else "no")


def held(teach: Scripted, rows: Sequence[Lesson]) -> list[Lesson]:
    config = LearnerConfig("l")

    async def one(lesson: Lesson) -> Lesson:
        (lesson,) = await learn(lesson, Scripted(learner), config)
        (lesson,) = await reply(lesson, teach, config)
        if lesson.reject is None:
            (lesson,) = await learn(lesson, Scripted(learner), config)
        return lesson

    return [asyncio.run(one(lesson)) for lesson in rows]


def test_a_tutor_who_knows_teaches_what_is_talked_about_and_nothing_else() -> None:
    rows = held(Scripted(tutor), planned())
    found = {s.metric: s for s in learning_gains(rows)}
    by_hand = []
    for row in rows:
        if row.about == "asked":
            gaps = [  # the wrong end against the right one
                1.0 if q.distribution[2] == 1 else (0.7 + 0.9 - (0.3 + 0.1)) / 2 for q in row.exam
            ]
            by_hand.append(float(np.mean(gaps)))
    assert found["gain_asked"].value == pytest.approx(np.mean(by_hand))
    assert (found["gain_asked"].n, found["gain_other"].n) == (4, 4)
    assert (found["gain_other"].low, found["gain_other"].value, found["gain_other"].high) == (0, 0, 0)
    assert len(rows[0].talk) == 8
    assert rows[0].before != rows[0].after


def test_a_tutor_who_knows_nothing_and_one_who_is_silent() -> None:
    rows = held(Scripted(lambda messages, sampling: "I would rather talk about bees."), planned())
    assert {s.value for s in learning_gains(rows)} == {0.0}
    silent = held(Scripted(lambda messages, sampling: Completion("", "content_filter", Usage(1, 0))), planned())
    assert {row.reject for row in silent} == {"no answer: content_filter"}
    assert learning_gains(silent) == []


def test_both_sorts_of_talk_have_the_same_exams_and_no_question_in_common_with_the_others() -> None:
    rows = planned()
    for asked, other in zip(rows[::2], rows[1::2], strict=True):
        assert asked.exam == other.exam
        exam = {q.question for q in asked.exam}
        assert set(asked.topics) <= exam
        assert not set(other.topics) & exam
    with pytest.raises(ConfigError, match="at least 2"):
        planned(1)
    with pytest.raises(ConfigError, match="more than the 12"):
        lessons(QUESTIONS, CULTURES["german"], "t", learners=2, length=9, rounds=4, seed=0)


def test_an_exam_is_marked_by_hand_and_satisfaction_is_a_question_for_people() -> None:
    exam = QUESTIONS[:3]
    assert mark(exam, ["yes", "yes", ""]) == pytest.approx({"Q0": (0.3 + 0.1) / 2, "Q1": 1.0})
    assert SATISFACTION[1] == ("1", "2", "3", "4", "5")
