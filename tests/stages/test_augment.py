"""Other wordings of a question: how they are asked for, made, judged by a teacher, picked and translated."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.plausible import plausible
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Paraphrase, Seed
from cp_ray.stages.augment import (
    BackTranslationsConfig,
    SynonymsConfig,
    TemplatesConfig,
    back_translations,
    own_wording,
    replaceable,
    substitute,
    synonyms,
    templates,
)
from cp_ray.stages.entail import EntailConfig, entail
from cp_ray.stages.pick import TOO_MANY, TWICE, PickConfig, pick
from cp_ray.stages.translate import TranslateConfig, to_translate, translate

OWN = own_wording(
    Seed(
        "german/Q28", "german", "wvs7", "Q28", "family", "Do you agree that a child suffers when its mother works?",
        ("Agree", "Disagree"), (0.4, 0.6), 100, "Disagree", "train",
    )
)  # fmt: skip


def made(text: str, k: int = 0, reject: str | None = None) -> Paraphrase:
    return replace(OWN, id=f"Q28/template/{k}", text=text, way="template", reject=reject)


def answer(text: str, reason: str = "stop") -> Completion:
    return Completion(text, reason, Usage(1, 1))


def test_templates_from_a_list_and_from_json() -> None:
    listed = asyncio.run(templates(OWN, Scripted(['1. "Does work hurt?"\n2. Is it so?']), TemplatesConfig("t")))
    assert [(r.id, r.text, r.parents) for r in listed] == [
        ("Q28/template/0", "Does work hurt?", ()), ("Q28/template/1", "Is it so?", ()),
    ]  # fmt: skip
    said = json.dumps({"sentences": ["One?", " "]})
    found = asyncio.run(templates(OWN, Scripted([said]), TemplatesConfig("t", structured=True)))
    assert [(r.text, r.reject) for r in found] == [("One?", None), ("", "empty")]


@pytest.mark.parametrize(
    ("said", "told"),
    [(answer("no list"), "no wording given"), (answer("", "content_filter"), "content_filter"),
     (answer("1. half a sent", "length"), "no wording given")],
)  # fmt: skip
def test_what_is_no_wording_has_a_reason(said: Completion, told: str) -> None:
    (row,) = asyncio.run(templates(OWN, Scripted([said]), TemplatesConfig("t")))
    assert row.reject == told


def test_a_word_goes_out_with_its_part_of_speech_and_its_sentence() -> None:
    model = Scripted(["1. kid, infant\n2. is harmed\n3. mum\n4. has a job"])
    rows = asyncio.run(synonyms(OWN, model, SynonymsConfig("t", draws=30, share=0.5)))
    sent = model.calls[0][0][-1].content
    assert f'Sentence: "{OWN.text}"' in sent
    assert "1. child (noun)" in sent
    assert "suffers (verb)" in sent
    assert "agree" not in [w.text for w in replaceable(OWN)], "the answers' own words stay"
    assert len({r.text for r in rows}) == len(rows) > 5
    assert all(r.parents == () and r.way == "synonym" for r in rows)
    assert any("a kid" in r.text or "an infant" in r.text for r in rows)
    assert rows == asyncio.run(synonyms(OWN, Scripted(["1. kid, infant\n2. is harmed\n3. mum\n4. has a job"]),
                                        SynonymsConfig("t", draws=30, share=0.5)))  # fmt: skip


def test_words_are_exchanged_as_tokens_and_not_inside_others() -> None:
    row = replace(OWN, text="Is art a part of the article? An apple is an art.", options=())
    arts = [w for w in replaceable(row) if w.text == "art"]
    assert len(arts) == 2
    changed = substitute(row.text, {arts[0]: "craft", arts[1]: "craft"})
    assert changed == "Is craft a part of the article? An apple is a craft."


@given(st.text(max_size=60), st.data())
def test_substitution_keeps_all_else(text: str, data: st.DataObject) -> None:
    words = replaceable(replace(OWN, text=text, options=()))
    chosen = {word: "thing" for word in words if data.draw(st.booleans())}
    found = substitute(text, chosen)
    assert len(found) >= len(text) - sum(len(w.text) for w in chosen)
    if not chosen:
        assert found == text


@pytest.mark.parametrize("mark", [".", ")", ":"])
def test_words_come_in_a_list_of_any_numbers(mark: str) -> None:
    said = "\n".join(f"{k}{mark} vital, weighty" for k in range(1, 9))
    rows = asyncio.run(synonyms(OWN, Scripted([said]), SynonymsConfig("t")))
    assert all(row.reject is None for row in rows), rows


@given(st.text(max_size=80))
def test_no_answer_about_words_breaks_it(said: str) -> None:
    rows = asyncio.run(synonyms(OWN, Scripted([said]), SynonymsConfig("t")))
    assert rows
    assert all((row.reject is None) == bool(row.text) for row in rows)


def test_an_answer_may_be_as_long_as_what_is_asked_for() -> None:
    model = Scripted(plausible)
    asyncio.run(templates(OWN, model, TemplatesConfig("t", drafts=40)))
    row = to_translate([OWN, *(made(f"Is it {k}?", k) for k in range(120))], [CULTURES["bengali"]])[0]
    (found,) = asyncio.run(translate(row, model, TranslateConfig("t")))
    few, many = (sampling.max_tokens for _, sampling in model.calls)
    assert few >= 40 * 60
    assert many >= 123 * 150
    assert (found.reject, len(found.texts)) == (None, 121)


def test_there_and_back() -> None:
    config = BackTranslationsConfig("t", languages=("German", "Greek"))
    rows = asyncio.run(back_translations(OWN, Scripted(plausible), config))
    assert [(r.text, r.way) for r in rows] == [(OWN.text, "translation")] * 2


def test_the_teacher_must_say_yes_in_both_directions() -> None:
    def one_way(messages: Any, sampling: Any) -> str:
        return "Yes." if messages[-1].content.startswith(f'First: "{OWN.text}"') else "no"

    config = EntailConfig("t")
    row = made("Does a child suffer?")
    assert asyncio.run(entail(row, Scripted(["yes", "Yes"]), config))[0].reject is None
    told = asyncio.run(entail(row, Scripted(one_way), config))[0].reject
    assert told == "the teacher finds that it asks something else"
    assert asyncio.run(entail(row, Scripted(["yes", "perhaps"]), config))[0].reject == "neither yes nor no"
    json_says = [json.dumps({"same": "yes"})] * 2
    assert asyncio.run(entail(row, Scripted(json_says), EntailConfig("t", structured=True)))[0].reject is None


def test_as_many_as_asked_for_and_as_different_as_there_are() -> None:
    rows = [OWN, made("Do you agree that a child suffers if its mother works?", 1),
            made("Is work bad for kids?", 2),
            made("do you agree that a child suffers when its mother works", 3),
            made("Wrong.", 4, "turned round")]  # fmt: skip
    found = {row.id: row.reject for row in pick(rows, PickConfig(1))}
    assert found == {
        "Q28/survey": None, "Q28/template/1": TOO_MANY, "Q28/template/2": None, "Q28/template/3": TWICE,
        "Q28/template/4": "turned round",
    }  # fmt: skip
    assert pick(rows[::-1], PickConfig(1)) == pick(rows, PickConfig(1))


@given(st.lists(st.text(max_size=12), max_size=12), st.integers(0, 6))
def test_never_more_than_asked_for(texts: list[str], most: int) -> None:
    rows = [OWN, *(made(text, k) for k, text in enumerate(texts))]
    kept = [row for row in pick(rows, PickConfig(most)) if row.reject is None]
    assert len(kept) <= most + 1
    assert len(kept) == min(most, len({row.text for row in kept if row.way != "survey"})) + 1


def test_all_wordings_and_the_options_in_one_call_for_each_language() -> None:
    cultures = [CULTURES[c] for c in ("german", "english", "arabic")]
    rows = to_translate([OWN, made("Is it so?"), made("no", 9, "turned round")], cultures)
    assert [(r.id, len(r.texts)) for r in rows] == [("German/Q28", 2), ("Arabic/Q28", 2)]
    (found,) = asyncio.run(translate(rows[0], Scripted(plausible), TranslateConfig("t")))
    assert found.texts == tuple(f"[German] {t}" for t in rows[0].texts)
    assert found.options == ("[German] Agree", "[German] Disagree")
    (found,) = asyncio.run(translate(rows[0], Scripted(plausible), TranslateConfig("t", structured=True)))
    assert found.reject is None
    (short,) = asyncio.run(translate(rows[0], Scripted(["1. Eins\n2. Zwei"]), TranslateConfig("t")))
    assert short.reject == "not one line for each"
    (same,) = asyncio.run(translate(rows[0], Scripted(["1. a\n2. b\n3. c\n4. c"]), TranslateConfig("t")))
    assert same.reject == "an empty line, or two options alike"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: TemplatesConfig("t", drafts=0), "drafts: must be at least 1"),
        (lambda: SynonymsConfig("t", share=0.0), "share: must be above 0"),
        (lambda: PickConfig(-1), "per_question: must not be negative"),
    ],
)
def test_a_wrong_setting_is_told(wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        wrong()
