from collections import Counter
from dataclasses import replace

import pytest

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Nearness, Opinion, Seed
from cp_ray.stages.examples import ExamplesConfig, check_split, make_examples
from cp_ray.stages.leakage import HELD, LeakageConfig, _Nearest
from cp_ray.stages.text import holds

ALL = tuple(CULTURES.values())
OPTIONS = ("Agree", "Hard to say", "Disagree")


def seed(id: str, split: str = "train", culture: str = "german") -> Seed:
    return Seed(f"{culture}/{id}", culture, "wvs7", id, "topic", f"Is it {id}?", OPTIONS, (0.6, 0.3, 0.1), 50, "Agree",
                split)  # type: ignore[arg-type]  # fmt: skip


def opinion(of: Seed, reject: str | None = None, text: str = "Germans think that it is so.") -> Opinion:
    return Opinion(f"{of.id}/dialogue/0/0", f"{of.id}/dialogue", of.id, of.culture, "Lukas", "claim", of.question, text,
                   reject=reject)  # fmt: skip


def test_answers_come_in_the_real_proportions_and_in_both_orders() -> None:
    examples = make_examples([seed("Q1")], [], ExamplesConfig(ALL, answers=4000))
    answers = Counter(e.messages[-1].content for e in examples)
    for option, share in zip(OPTIONS, (0.6, 0.3, 0.1), strict=True):
        assert answers[option] / 4000 == pytest.approx(share, abs=0.03)
    assert Counter(e.messages[1].content.endswith("Disagree") for e in examples) == {True: 2000, False: 2000}
    assert all([m.role for m in e.messages] == ["system", "user", "assistant"] for e in examples)


def test_apportioned_answers_have_the_real_proportions_in_each_order() -> None:
    examples = make_examples([seed("Q1")], [], ExamplesConfig(ALL, answers=200, draw="apportioned"))
    for reverse in (False, True):
        answers = Counter(
            e.messages[-1].content for e in examples if e.messages[1].content.endswith("Agree") == reverse
        )
        assert answers == {"Agree": 60, "Hard to say": 30, "Disagree": 10}
    few = make_examples([seed("Q1")], [], ExamplesConfig(ALL, answers=5, draw="apportioned"))
    assert Counter(e.messages[-1].content for e in few) == {"Agree": 3, "Hard to say": 1, "Disagree": 1}
    assert all(e.options == OPTIONS for e in few)
    with pytest.raises(ConfigError, match="draw: must be sampled or apportioned, got 'x'"):
        ExamplesConfig(ALL, draw="x")


def test_pooled_answers_come_partly_from_the_culture_s_other_training_questions_on_the_same_scale() -> None:
    own, other = seed("Q1"), replace(seed("Q2"), distribution=(0.0, 0.1, 0.9))
    foreign = replace(seed("Q2", culture="greek"), distribution=(0.0, 0.0, 1.0))
    heldout = replace(seed("Q3", "heldout"), distribution=(0.0, 1.0, 0.0))
    scale = ("Yes", "Hardly", "No")
    elsewhere = replace(seed("Q4"), options=scale, distribution=(0.0, 0.5, 0.5))
    config = ExamplesConfig(ALL, answers=200, draw="apportioned", pooling=0.5)
    examples = make_examples([own, other, foreign, heldout, elsewhere], [], config)
    counts = Counter((e.culture, e.question_id, e.messages[-1].content) for e in examples)
    # The mean of Germans is (0.3, 0.2, 0.5) on this scale, and half of it counts.
    assert [counts["german", "Q1", option] for option in OPTIONS] == [90, 50, 60]
    assert [counts["german", "Q2", option] for option in OPTIONS] == [30, 30, 140]
    assert [counts["greek", "Q2", option] for option in OPTIONS] == [0, 0, 200]
    assert [counts["german", "Q4", option] for option in scale] == [0, 100, 100]
    plain, none = ExamplesConfig(ALL, draw="apportioned"), replace(config, pooling=0.0, answers=32)
    assert make_examples([own, other], [], plain) == make_examples([own, other], [], none)
    with pytest.raises(ConfigError, match="pooling: must be a share from 0 to 1, got 2"):
        ExamplesConfig(ALL, pooling=2)


def test_only_training_questions_and_opinions_that_count() -> None:
    train, heldout = seed("Q1"), seed("Q2", "heldout")
    examples = make_examples(
        [train, heldout], [opinion(train), opinion(train, "too short")], ExamplesConfig(ALL, answers=2)
    )
    assert Counter(e.kind for e in examples) == {"answer": 2, "opinion": 1}
    assert {e.question_id for e in examples} == {"Q1"}
    assert examples[-1].parents == ("german/Q1/dialogue/0/0", "german/Q1/dialogue", "german/Q1")


def test_a_held_out_question_in_a_training_row_stops_the_run() -> None:
    train, heldout = seed("Q1"), seed("Q2", "heldout")
    with pytest.raises(ValueError, match="not a training seed"):
        make_examples([train, heldout], [opinion(heldout)], ExamplesConfig(ALL))
    leak = opinion(train, text=f"They were asked: {heldout.question}")
    with pytest.raises(ConfigError, match="holds the held-out question Q2"):
        make_examples([train, heldout], [leak], ExamplesConfig(ALL))
    with pytest.raises(ConfigError, match="holds the held-out question Q1"):
        check_split(make_examples([train], [], ExamplesConfig(ALL)), [seed("Q1", "heldout")])


def test_a_word_that_somebody_uses_is_no_held_out_question() -> None:
    train, work = seed("Q1"), replace(seed("Q2", "heldout"), question="Work")
    assert make_examples([train, work], [opinion(train, text="Work matters.")], ExamplesConfig(ALL))
    assert not holds("工作", "工作")
    assert holds("他们问：您认为家庭重要吗？", "您认为家庭重要吗？")
    assert holds("So: Do you like tea?", "Do you like tea?")


def test_a_text_with_a_held_out_question_in_it_is_set_aside_however_far_its_vector() -> None:
    tea = "Do you like tea?"
    far = "Long ago, on a rainy evening far from the sea, my uncle, who kept bees and sheep, asked the baker: "
    nearest = _Nearest([("work", "Work"), ("tea", tea)], LeakageConfig())
    rows = from_table(nearest(to_table([Nearness("a", far + tea), Nearness("b", "Work is dear.")], Nearness)), Nearness)
    assert [(row.reject, row.question_id) for row in rows] == [(HELD, "tea"), (None, "work")]
    assert rows[0].similarity < 0.8


def test_a_culture_s_rows_do_not_depend_on_the_others() -> None:
    german, greek = seed("Q1"), seed("Q1", culture="greek")
    alone = make_examples([german], [], ExamplesConfig(ALL))
    both = make_examples([greek, german], [], ExamplesConfig(ALL))
    assert [e for e in both if e.culture == "german"] == alone
    assert [e.messages[-1] for e in alone] != [e.messages[-1] for e in both if e.culture == "greek"]
    assert make_examples([german], [], ExamplesConfig(ALL, seed=1)) != alone
