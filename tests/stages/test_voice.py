"""voice: opinions in the first person, by grammar and by the teacher."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.english.first_person import first_person
from cp_ray.english.words import words
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Opinion
from cp_ray.stages.voice import GrammarConfig, VoiceConfig, parse_voice, voice, voice_by_grammar

ALL = tuple(CULTURES.values())
OPINION = Opinion("o", "d", "german/Q40", "german", "Lukas", "", "", "Germans think that work is a duty.")

GOLDEN = Path(__file__).parent.parent / "golden" / "first_person.tsv"
TOLD = [tuple(line.split("\t")) for line in GOLDEN.read_text(encoding="utf-8").splitlines()[1:]]

AS_IT_IS = [
    "Work is a duty to society.",
    "Children should respect their parents.",
    "Germanshepherds think that Germany matters.",
    "The German economy matters to the theme of their hereditary otherness, they say, as parents know.",
    '"Germans think so" is what he says.',
    "",
    "...",
]  # fmt: skip

UNCLEAR = [
    ("Germans think that immigrants take their jobs.", "'their' may mean others"),
    ("Germans think that laws are good. They protect the weak.", "'they' may mean others"),
    ("Germans think that the state should keep out of their lives.", "'their' may mean others"),
    ("Germans think their parents were wiser than they are.", "'they' may mean others"),
    ("Germans help them.", "'them' may mean others"),
    ("Their culture values order.", "'their' before it is said who they are"),
    ("Because they love order, Germans sort their waste.", "'they' before it is said who they are"),
    ("Germans are hard-working people.", "a plural that one person is not"),
    ("Germans want to be good citizens.", "a plural that one person is not"),
    ("Germans consider themselves good hosts.", "a plural that one person is not"),
    ("Germans live their lives quietly.", "a plural that one person has not"),
    ("Germans help each other.", "said of several people together"),
    ("Germans eat together on Sundays.", "said of several people together"),
    ("Some Germans think that work is a duty.", "the people are named, but not as the subject"),
    ("It is believed by Germans that work matters.", "the people are named, but not as the subject"),
    ("Do Germans think that work is good?", "the people are named, but not as the subject"),
    ("Germans and Turks think that work matters.", "no verb after the people"),
    ("Germans, who love order, think that work matters.", "no verb after the people"),
    ("Germans' values matter.", "no verb after the people"),
    ('Germans think "that this has no end.', "a quotation does not end"),
]  # fmt: skip


@pytest.mark.parametrize(("culture", "text", "told"), TOLD)
def test_what_is_said_of_a_people_is_told_in_the_first_person(culture: str, text: str, told: str) -> None:
    made = first_person(text, CULTURES[culture])
    assert (made.text, made.reject) == (told, None)


@pytest.mark.parametrize("text", AS_IT_IS)
def test_what_does_not_speak_of_the_people_stays_as_it_is(text: str) -> None:
    made = first_person(text, CULTURES["german"])
    assert (made.text, made.reject) == (text, None)


@pytest.mark.parametrize(("text", "why"), UNCLEAR)
def test_where_it_is_not_sure_there_is_a_reason_and_no_new_text(text: str, why: str) -> None:
    made = first_person(text, CULTURES["german"])
    assert (made.text, made.reject) == (text, why)


@given(st.text())
def test_any_text_comes_back_or_is_told(text: str) -> None:
    made = first_person(text, CULTURES["german"])
    assert made.text == text or "I" in made.text


FILLERS = (
    "theme", "hereditary", "another", "Germany", "Germanic", "work", "freedom", "order", "often", "good", "isolated",
    "area", "whereas", "theirselves", "northern", "duty", '"they are"', "“their Germans”", "I", "we", "is", "that",
    "respect", "honour", ",", "and", "because", "neighbours", "state", "religion", "should",
)  # fmt: skip
CHANGED = {"they", "them", "their", "theirs", "themselves", "germans", "the", "are", "is", "were", "has", "does", "n't"}


@given(
    st.sampled_from(["Germans", "The Germans", "They", "In Germany, Germans", "Work matters. Germans"]),
    st.sampled_from(["think", "are", "were", "have", "value", "don't like", "aren't"]),
    st.lists(st.sampled_from((*FILLERS, "they", "their", "them", "themselves")), max_size=9),
    st.sampled_from(["", ".", ". They agree.", "?"]),
)
@settings(max_examples=400)
def test_words_that_are_neither_subject_nor_verb_nor_pronoun_never_change(
    subject: str, verb: str, rest: list[str], end: str
) -> None:
    text = f"{subject} {verb} {' '.join(rest)}{end}"
    made = first_person(text, CULTURES["german"])
    if made.reject is not None:
        assert made.text == text
        return

    def kept(said: str) -> list[str]:
        new = {"i", "am", "me", "my", "mine", "myself", "was", "have", "do", "not"}
        return [w.text for w in words(said) if w.quoted or w.lower not in CHANGED | new]

    assert kept(made.text) == kept(text)
    for quoted in ('"they are"', "“their Germans”"):
        assert made.text.count(quoted) == text.count(quoted)
    assert made.text.startswith(("I ", "In Germany, I ", "Work matters. I "))


def test_opinions_by_grammar_keep_what_they_came_from() -> None:
    told, unclear = voice_by_grammar(
        [OPINION, replace(OPINION, id="p", text="Germans help each other.")], GrammarConfig(ALL)
    )
    assert told == replace(OPINION, text="I think that work is a duty.")
    assert unclear.reject == "no first person: said of several people together"


def by_teacher(*answers: str | Completion, text: str = OPINION.text, structured: bool = False) -> tuple[Opinion, int]:
    model = Scripted(answers)
    (row,) = asyncio.run(voice(replace(OPINION, text=text), model, VoiceConfig("t", ALL, structured=structured)))
    return row, len(model.calls)


def test_the_teacher_tells_it_and_is_not_asked_about_what_speaks_of_nobody() -> None:
    assert by_teacher(' "I think that work is a duty."\n')[0].text == "I think that work is a duty."
    assert by_teacher(json.dumps({"text": "I think that work is a duty."}), structured=True)[0].reject is None
    row, calls = by_teacher(text="Work is a duty.")
    assert (row.text, row.reject, calls) == ("Work is a duty.", None, 0)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Germans think that work is a duty.", "not in the first person"),
        ("I know that Germans think that work is a duty.", "still tells of the people"),
        ("I like to eat with my whole family.", "says something else"),
        ("Sure!\nI think that work is a duty.", "not one sentence"),
        ("", "not one sentence"),
        (Completion("I think that", "length", Usage(1, 1)), "cut off"),
        (Completion("", "content_filter", Usage(1, 0)), "content_filter"),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_reject_with_its_reason(answer: str | Completion, why: str) -> None:
    row, _ = by_teacher(answer)
    assert (row.text, row.reject) == (OPINION.text, why)


def test_json_of_another_form_is_asked_for_again_once() -> None:
    row, calls = by_teacher("I think", '{"words": 1}', structured=True)
    assert (row.reject, calls) == ("not the JSON asked for", 2)


@given(st.text())
def test_any_answer_of_a_teacher_is_taken_or_has_a_reason(answer: str) -> None:
    text, reject = parse_voice(answer, OPINION.text, CULTURES["german"], 0.6)
    assert reject is not None or text


def test_a_share_beyond_one_is_told() -> None:
    with pytest.raises(ConfigError, match="kept: must be between 0 and 1, got 2"):
        VoiceConfig("t", ALL, kept=2)
