"""Answers of a given form, mended once."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.llm.call import Completion, Sampling, Usage, failure
from cp_ray.llm.endpoint import Endpoint
from cp_ray.llm.scripted import Scripted
from cp_ray.llm.structured import NOT_JSON, Structured, ask_json, schema_text
from cp_ray.records import Message

SCHEMA = schema_text({
    "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False,
})  # fmt: skip
CHAT = [Message("user", "How many?")]


def ask(*answers: str | Completion) -> tuple[Structured, Scripted]:
    model = Scripted(answers)
    return asyncio.run(ask_json(model, CHAT, Sampling(0.0, 9, 4, SCHEMA))), model


def test_what_fits_is_taken() -> None:
    found, model = ask('{"n": 3}')
    assert found == Structured({"n": 3})
    assert [sampling.schema for _, sampling in model.calls] == [SCHEMA]


@pytest.mark.parametrize("wrong", ["three", '{"n": "3"}', '{"n": 3, "m": 4}', "[]", "```json\n{}\n```", ""])
def test_what_does_not_is_mended_once(wrong: str) -> None:
    found, model = ask(wrong, '{"n": 3}')
    assert found == Structured({"n": 3})
    shown, sampling = model.calls[1]
    assert [m.role for m in shown] == ["user", "assistant", "user"]
    assert shown[1].content == wrong
    assert "JSON" in shown[2].content
    assert sampling.seed == 5
    found, model = ask(wrong, wrong)
    assert found == Structured(reject=NOT_JSON)
    assert len(model.calls) == 2


def test_half_a_surrogate_is_no_text() -> None:
    schema = schema_text({"type": "array", "items": {"type": "string"}})
    model = Scripted(['["\\ud800"]'] * 2)
    found = asyncio.run(ask_json(model, CHAT, Sampling(schema=schema)))
    assert found == Structured(reject=NOT_JSON)


def test_other_ends_keep_their_reason() -> None:
    assert ask(failure("content_filter"))[0] == Structured(reject="content_filter")
    assert ask("x", failure("gave up: time-out"))[0] == Structured(reject="gave up: time-out")
    found, model = ask(Completion('{"n": ', "length", Usage(1, 9)))
    assert found == Structured(reject="cut off")
    assert len(model.calls) == 1, "it would be cut off again"


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.text(), x)).map(json.dumps))  # fmt: skip
def test_whatever_is_said_ends_as_a_value_or_a_reason(text: str) -> None:
    found, _ = ask(text, text)
    assert (found.value is None) != (found.reject is None)


def test_over_http(scripted_server: Any) -> None:
    async def run(url: str) -> Structured:
        endpoint = Endpoint(url, "scripted", None)
        found = await ask_json(endpoint, CHAT, Sampling(schema=schema_text({
            "type": "object", "properties": {"opinions": {"type": "array", "items": {"type": "string"}}},
            "required": ["opinions"], "additionalProperties": False})))  # fmt: skip
        await endpoint.close()
        return found

    found = asyncio.run(run(scripted_server().url))
    assert found.reject is None
    assert len(found.value["opinions"]) == 2
