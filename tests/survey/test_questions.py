from collections import Counter

from cp_ray.cultures import CULTURES
from cp_ray.survey.asking import ask
from cp_ray.survey.questions import QUESTIONS


def test_the_fifty_questions_and_their_scales() -> None:
    assert len(QUESTIONS) == 50
    sizes = Counter(q.topic for q in QUESTIONS.values())
    assert sorted(sizes.values()) == [2, 3, 5, 7, 8, 10, 15]
    assert len({q.text for q in QUESTIONS.values()}) == 50
    for question in QUESTIONS.values():
        assert len(question.scale.labels) == len(question.scale.codes) == len(set(question.scale.labels))
        assert question.text.endswith("?")


def test_both_orders_show_the_same_options() -> None:
    options = ("Agree", "Hard to say", "Disagree")
    forward, backward = (ask(CULTURES["german"], "Is it so?", options, reverse=r)[-1].content for r in (False, True))
    assert forward.endswith("Agree; Hard to say; Disagree")
    assert backward.endswith("Disagree; Hard to say; Agree")
    assert ask(CULTURES["arabic"], "?", options, reverse=False)[0].content == "You are Arab."
