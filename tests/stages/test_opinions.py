"""extract and verify, on a scripted teacher."""

import asyncio
import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.llm.call import Completion, Sampling, Token, Usage
from cp_ray.llm.endpoint import Endpoint
from cp_ray.llm.labels import AMBIGUOUS, TOLD_NOTHING
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Dialogue, Opinion, Turn
from cp_ray.stages.extract import ExtractConfig, extract, parse_opinions
from cp_ray.stages.text import article, read_word, trim_to_sentence
from cp_ray.stages.verify import VerifyConfig, parse_relation, verify

ALL = tuple(CULTURES.values())
CLAIM = 'Asked "Is work a duty?", Germans most often answer "Agree".'
TALK = Dialogue(
    "d", "german/Q40", "german", "guided", "cross", "Emily", "Lukas", CLAIM, "social values", "Is work a duty?",
    (Turn("Lukas", "opinion", "Work is a duty.", 5), Turn("Emily", "respond", "Not to me.", 4),
     Turn("Lukas", "agree", "Still, it is.", 4)), "t",
)  # fmt: skip
OPINION = Opinion(
    "o", "d", "german/Q40", "german", "Lukas", CLAIM, "Is work a duty?", "Germans think that work is fun."
)
BLOCKED = Completion("", "content_filter", Usage(3, 0))


def taken(*answers: str | Completion) -> list[Opinion]:
    return asyncio.run(extract(TALK, Scripted(answers), ExtractConfig("t", ALL)))


def judged(*answers: str | Completion) -> tuple[Opinion, Scripted]:
    model = Scripted(answers)
    (row,) = asyncio.run(verify(OPINION, model, VerifyConfig("t")))
    return row, model


def test_only_the_delegate_s_utterances_are_read() -> None:
    model = Scripted(["none", "none"])
    asyncio.run(extract(TALK, model, ExtractConfig("t", ALL)))
    assert [("Work is a duty." in m[-1].content, "Not to me." in m[-1].content) for m, _ in model.calls] == [
        (True, False),
        (False, False),
    ]


def test_each_opinion_is_a_row_with_its_source() -> None:
    rows = taken("1. Germans think that work is a duty.\n2) Germans think that idleness harms.", "- Short one.")
    assert [row.text for row in rows] == [
        "Germans think that work is a duty.", "Germans think that idleness harms.", "Short one.",
    ]  # fmt: skip
    assert [row.reject for row in rows] == [None, None, "too short"]
    assert [row.id for row in rows] == ["d/0/0", "d/0/1", "d/2/0"]
    assert all((row.seed_id, row.claim, row.speaker) == ("german/Q40", CLAIM, "Lukas") for row in rows)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("none", "no opinion in the utterance"),
        ("None.", "no opinion in the utterance"),
        ("Work is seen as a duty here.", "not a list"),
        ("", "not a list"),
        (BLOCKED, "content_filter"),
        ("1. Germans think that children learn patience at the table.", "repeats the example"),
    ],
)
def test_what_is_no_list_of_opinions_is_kept_with_its_reason(answer: str | Completion, reason: str) -> None:
    assert taken(answer, "none")[0].reject == reason


def test_the_last_line_of_a_list_that_was_cut_off_is_no_opinion() -> None:
    text = "1. Germans think that work is a duty.\n2. Germans think that on Sun"
    assert [t for t, _ in parse_opinions(text, 5, cut_off=True)] == ["Germans think that work is a duty."]


@given(st.text())
def test_any_answer_gives_rows(text: str) -> None:
    for cut_off in (False, True):
        found = parse_opinions(text, 5, ("learn patience",), cut_off=cut_off)
        assert found
        assert all(reject is not None or len(entry.split()) >= 5 for entry, reject in found)


@pytest.mark.parametrize(
    ("answers", "relation", "reject"),
    [
        (["entail"], "entail", None),
        (["Entails."], "entail", None),
        (["irrelevant"], "irrelevant", "irrelevant to the survey"),
        (["It entails it"], None, "judgement not understood"),
        ([""], None, "judgement not understood"),
        ([BLOCKED], None, "content_filter"),
        (["contradict", "Germans think that work is a duty.", "entail"], "entail", None),
        (["contradict", "Germans hate work.", "contradict"], "contradict", "contradicts the survey, rewritten too"),
        (["contradict", "Cows eat grass.", "irrelevant"], "irrelevant", "irrelevant to the survey"),
        (["contradict", "Americans in the U.S. hold that work is a duty", "entail"], "entail", None),
        (["contradict", " "], "contradict", "contradicts the survey, and no rewrite was given"),
        (["contradict", BLOCKED], "contradict", "contradicts the survey, and no rewrite was given"),
    ],
)
def test_a_judgement_and_what_follows(
    answers: list[str | Completion], relation: str | None, reject: str | None
) -> None:
    row, model = judged(*answers)
    assert (row.relation, row.reject) == (relation, reject)
    assert len(model.calls) == len(answers)


def test_it_is_the_rewritten_text_that_is_judged_again() -> None:
    # The originals judged the old text again, so that no rewrite ever helped.
    row, model = judged("contradict", "Germans think that work is a duty.", "entail")
    assert row.rewritten
    assert row.text == "Germans think that work is a duty."
    assert "work is fun" in model.calls[0][0][-1].content
    assert "work is a duty" in model.calls[2][0][-1].content
    assert "work is fun" not in model.calls[2][0][-1].content


@given(st.text())
def test_a_relation_is_one_of_three_words_or_none(text: str) -> None:
    assert parse_relation(text) in (None, "entail", "contradict", "irrelevant")


def test_small_things_about_text() -> None:
    assert [article(a) for a in ("Arab", "German", "American")] == ["an Arab", "a German", "an American"]
    assert trim_to_sentence('He said "yes." And th') == 'He said "yes."'
    assert trim_to_sentence("no end") == "no end"
    assert read_word(' "Yes." ', ("yes", "no")) == "yes"
    assert read_word("yes and no", ("yes", "no")) is None


def test_within_a_culture_both_speakers_opinions_count() -> None:
    within = dataclasses.replace(TALK, setting="in")
    for held, speakers in ((TALK, {"Lukas"}), (within, {"Lukas", "Emily"})):
        model = Scripted(lambda messages, sampling: "1. Germans think that work gives the day a shape.")
        rows = asyncio.run(extract(held, model, ExtractConfig("t", ALL)))
        assert {row.speaker for row in rows} == speakers
        assert len({row.id for row in rows}) == len(rows)


def test_opinions_asked_for_as_json() -> None:
    long, short = "Germans think that work is a duty.", "So it is."
    answers = [json.dumps({"opinions": [long, short]}), "no JSON", json.dumps({"opinions": []})]
    rows = asyncio.run(extract(TALK, Scripted(answers), ExtractConfig("t", ALL, structured=True)))
    assert [(r.text, r.reject) for r in rows[:2]] == [(long, None), (short, "too short")]
    assert rows[2].reject == "no opinion in the utterance"


@pytest.mark.parametrize("relation", ["entail", "contradict", "irrelevant"])
def test_a_judgement_asked_for_as_json(relation: str) -> None:
    entails = json.dumps({"relation": "entail"})
    model = Scripted([json.dumps({"relation": relation}), "Germans think that work is a duty.", entails])
    (row,) = asyncio.run(verify(OPINION, model, VerifyConfig("t", structured=True)))
    assert row.rewritten == (relation == "contradict")
    assert row.reject == ("irrelevant to the survey" if relation == "irrelevant" else None)


@given(st.text(), st.text())
def test_whatever_is_answered_to_json_is_a_row(one: str, other: str) -> None:
    for config in (ExtractConfig("t", ALL, structured=True),):
        rows = asyncio.run(extract(TALK, Scripted([one, other, one, other]), config))
        assert rows
        assert all(row.text or row.reject for row in rows)
    (judged_row,) = asyncio.run(verify(OPINION, Scripted([one, other] * 3), VerifyConfig("t", structured=True)))
    assert judged_row.reject is not None


def told(*tokens: tuple[str, dict[str, float]]) -> Completion:
    """An answer with the likeliest tokens at each place, the first of which was drawn."""
    rows = [Token(text, math.log(top[text]), tuple((t, math.log(p)) for t, p in top.items())) for text, top in tokens]
    return Completion("".join(text for text, _ in tokens), "stop", Usage(1, 1), logprobs=tuple(rows))


ENTAILS = {" ent": 0.5, "Ent": 0.1, "cont": 0.2, " irre": 0.1, "The": 0.06}


@pytest.mark.parametrize(
    ("answer", "structured", "margin", "lacking"),
    [
        (told((" ent", ENTAILS), ("ail", {"ail": 1.0})), False, (0.6 - 0.2) / 0.9, None),
        (told(("{", {"{": 1.0}), ('"relation": "', {'"relation": "': 1.0}), ("ent", {"ent": 0.5, "c": 0.3, "x": 0.1}),
              ('ail"}', {'ail"}': 1.0})), True, (0.5 - 0.3) / 0.9, None),
        (told(('{"relation": "e', {'{"relation": "e': 0.9, "{": 0.05}), ('ntail"}', {'ntail"}': 1.0})), True, None,
         AMBIGUOUS),
        (told(("ent", {"ent": 0.3, "x": 0.1}), ("ail", {"ail": 1.0})), False, (0.3 - 0.1) / 0.5, None),
        (Completion("entail", "stop", Usage(1, 1)), False, None, TOLD_NOTHING),
        (Completion("entail", "stop", Usage(1, 1), logprobs=(Token("entail", -0.1),)), False, None, AMBIGUOUS),
    ],
)  # fmt: skip
def test_an_opinion_keeps_by_how_much_its_relation_was_the_likeliest(
    scripted_server: Any, answer: Completion, structured: bool, margin: float | None, lacking: str | None
) -> None:
    asked: list[Sampling] = []

    def teacher(messages: Any, sampling: Sampling) -> Completion:
        asked.append(sampling)
        return answer

    async def over_http(url: str) -> list[Opinion]:
        endpoint = Endpoint(url, "scripted", None)
        try:
            return await verify(OPINION, endpoint, VerifyConfig("t", structured=structured))
        finally:
            await endpoint.close()

    (row,) = asyncio.run(over_http(scripted_server(teacher).url))
    assert (row.relation, row.reject, [one.logprobs for one in asked]) == ("entail", None, [10])
    assert row.no_margin == lacking
    assert row.margin == (None if margin is None else pytest.approx(margin, abs=1e-5))
