from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Seed, Translation
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.mixed import KNOWN, MixedConfig, mix
from cp_ray.survey.mixed import mixed, pairs
from tests.stages.test_examples import ALL, OPTIONS, seed


@pytest.mark.parametrize(
    ("one", "other", "cut", "made"),
    [
        (
            "Do you say that cats are nice?",
            "Do you say that work is the law?",
            0.5,
            "Do you say that cats are the law?",
        ),
        ("Do you say that cats are nice?", "Do you say that work is the law?", 0.0, "Do you say that work is the law?"),
        ("Is it so?", "Is it so?", 0.5, "Is it so?"),
        ("One two", "Three four", 0.5, "One four"),
        ("\u5de5\u4f5c\u597d\u5417", "\u5b66\u4e60\u96be\u5417", 0.5, "\u5de5\u4f5c\u96be\u5417"),
    ],
)
def test_a_question_is_made_of_what_two_share_and_a_part_of_each(one: str, other: str, cut: float, made: str) -> None:
    assert mixed(one, other, cut) == made


@given(st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("abcd"), min_size=1), st.floats(0, 1))
def test_it_begins_like_one_and_ends_like_the_other(one: list[str], other: list[str], cut: float) -> None:
    first, second = [*one, "x"], [*other, "y"]
    words = mixed(" ".join(first), " ".join(second), cut).split()
    assert any(words == first[:k] + second[len(second) - len(words) + k :] for k in range(len(words) + 1))


def test_pairs_are_of_one_culture_and_one_scale_and_the_same_for_all_cultures() -> None:
    questions = [seed(f"Q{k}", culture=culture) for culture in ("german", "greek") for k in range(5)]
    elsewhere = [replace(seed(f"R{k}"), options=("Yes", "No"), distribution=(0.5, 0.5)) for k in range(2)]
    found = list(pairs([*questions, *elsewhere], 3, 0))
    assert Counter(one.id for one, _, _ in found) == Counter(
        {s.id: 3 for s in questions} | {s.id: 1 for s in elsewhere}
    )
    assert len({(one.id, other.id) for one, other, _ in found}) == len(found)
    for one, other, cut in found:
        assert (one.culture, one.options) == (other.culture, other.options)
        assert one is not other
        assert 0.3 <= cut <= 0.7
    by_culture = [
        [(a.question_id, b.question_id, cut) for a, b, cut in found if a.culture == id and a.options == OPTIONS]
        for id in ("german", "greek")
    ]
    assert by_culture[0] == by_culture[1]
    assert [(a.id, b.id) for a, b, _ in pairs(questions, 3, 1)] != [(a.id, b.id) for a, b, _ in pairs(questions, 3, 0)]


def made_of(seeds: list[Seed], config: ExamplesConfig, each: int, **more: Any) -> list[Example]:
    return make_examples(seeds, [], config, mixtures=mix(seeds, MixedConfig(each)), **more)


def test_mixed_questions_are_answered_with_the_mean_of_both() -> None:
    one, other = seed("Q1"), replace(seed("Q2"), question="Was that Q2 indeed?", distribution=(0.0, 0.1, 0.9))
    heldout = seed("Q3", "heldout")
    config = ExamplesConfig(ALL, answers=20, draw="apportioned")
    made = made_of([one, other, heldout], config, 1)
    examples = [e for e in made if e.kind == "mixed"]
    assert {(e.question_id, e.other_question_id) for e in examples} == {("Q1", "Q2"), ("Q2", "Q1")}
    first = [e for e in examples if e.question_id == "Q1"]
    assert Counter(e.messages[-1].content for e in first) == {"Agree": 6, "Hard to say": 4, "Disagree": 10}
    assert all(e.parents == ("german/Q1", "german/Q2") and e.options == OPTIONS for e in first)
    assert {len(made), len({e.id for e in made})} == {80}
    assert not any(one.question in e.messages[1].content for e in first)
    assert [e for e in made if e.kind == "answer"] == make_examples([one, other, heldout], [], config)


def test_what_comes_out_as_a_known_question_is_left_out() -> None:
    texts = ("cats and dogs", "horses or cats", "cats or cats", "cats and cats")
    seeds = [
        replace(seed(f"Q{k}", "train" if k < 2 else "heldout"), question=f"Do you like {text}?")
        for k, text in enumerate(texts)
    ]
    assert [(m.id, m.reject) for m in mix(seeds, MixedConfig(1))] == [("german/Q0+Q1", KNOWN), ("german/Q1+Q0", None)]
    made = made_of(seeds, ExamplesConfig(ALL, answers=2), 1)
    assert {(e.question_id, e.other_question_id) for e in made if e.kind == "mixed"} == {("Q1", "Q0")}


def test_what_is_to_be_left_out_is_in_no_mixed_question() -> None:
    texts = ("cats and dogs", "horses or cows", "birds but fish")
    seeds = [replace(seed(f"Q{k}"), question=f"Do you like {text}?") for k, text in enumerate(texts)]
    ids = {m.id for m in mix(seeds, MixedConfig(2))}
    assert len(ids) == 6
    for left_out, left in ((["german/Q0+Q1"], ids - {"german/Q0+Q1"}), (["Q0"], {"german/Q1+Q2", "german/Q2+Q1"})):
        made = made_of(seeds, ExamplesConfig(ALL, answers=2), 2, left_out=left_out)
        found = {f"{e.culture}/{e.question_id}+{e.other_question_id}" for e in made if e.kind == "mixed"}
        assert found == left
    with pytest.raises(ConfigError, match="mixed: must be at least 0, got -1"):
        MixedConfig(-1)


def test_who_is_asked_in_another_language_is_asked_mixed_questions_in_it() -> None:
    seeds = [seed("Q1"), replace(seed("Q2"), question="Was that Q2 indeed?"), seed("Q3")]
    options = ("Ja", "Vielleicht", "Nein")
    translated = [
        Translation(f"German/{id}", "German", id, (f"{id}/survey",), (text,), options)
        for id, text in (("Q1", "Ist das wirklich so?"), ("Q2", "War das jemals gut?"))
    ]
    made = made_of(seeds, ExamplesConfig(ALL, answers=2), 2, translations=translated)
    examples = [e for e in made if e.kind == "mixed"]
    assert {(e.question_id, e.other_question_id) for e in examples} == {("Q1", "Q2"), ("Q2", "Q1")}
    assert all(e.messages[-1].content in options for e in examples)
    assert {e.messages[1].content.partition("\n")[0].split()[0] for e in examples} == {"Ist", "War"}


def test_a_culture_s_mixed_rows_do_not_depend_on_the_others() -> None:
    seeds: list[Seed] = [seed(f"Q{k}", culture=culture) for culture in CULTURES for k in range(3)]
    config = ExamplesConfig(ALL, answers=2)
    own = made_of([s for s in seeds if s.culture == "german"], config, 2)
    assert [e for e in made_of(seeds, config, 2) if e.culture == "german"] == own
