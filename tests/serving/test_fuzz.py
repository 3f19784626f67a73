"""Malformed requests by the schema that the server itself tells: whatever comes, nothing is the server's fault."""

import json
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.service import Service
from tests.serving.fake import MODELS, Fake

API = build_api(Service(Fake(), "smollm2", MODELS, [CULTURES["german"], CULTURES["arabic"]]))
SCHEMA: dict[str, Any] = API.openapi()
HTTP = TestClient(API, raise_server_exceptions=False)

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["german", "auto", "user", "\ud83d", "\x00", "a" * 5_000, "٣", "<|im_end|>", 10**40, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""JSON of any shape."""


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a schema asks for, with a little of anything else in any place."""
    if "$ref" in schema:
        return st.deferred(lambda: values(SCHEMA["components"]["schemas"][schema["$ref"].rpartition("/")[2]]))
    if "anyOf" in schema:
        return st.one_of([values(option) for option in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"]) | JUNK
    if "enum" in schema:
        return st.sampled_from(schema["enum"]) | JUNK
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        needed = {name: values(fields[name]) for name in schema.get("required", ())}
        others = {name: values(field) for name, field in fields.items() if name not in needed}
        return st.fixed_dictionaries(needed, optional=others) | JUNK
    if kind == "array":
        return st.lists(values(schema.get("items", {})), max_size=3) | JUNK
    if kind == "integer":
        return st.integers(-2, 5) | JUNK
    if kind == "number":
        return st.floats(-0.5, 2.5) | JUNK
    if kind == "string":
        return st.sampled_from(["german", "base", "auto", "hello", "Q27", "all"]) | JUNK
    return JUNK


POSTS = [
    (path, values(operation["post"]["requestBody"]["content"]["application/json"]["schema"]))
    for path, operation in SCHEMA["paths"].items()
    if "requestBody" in operation.get("post", {})
]
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=30).map(
            lambda text: text.strip().encode("latin-1")
        )
        for name in ("accept-language", "x-cp-culture", "authorization", "content-type")
    },
)


@pytest.mark.parametrize(("path", "body"), POSTS, ids=[path for path, _ in POSTS])
@hypothesis.settings(max_examples=300, suppress_health_check=list(hypothesis.HealthCheck))
@given(st.data())
def test_a_malformed_body_is_never_the_server_s_fault(
    path: str, body: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    sent = json.dumps(data.draw(body))
    headers: Any = {"content-type": "application/json"} | data.draw(HEADERS)
    answer = HTTP.post(path.replace("{id}", "german"), content=sent.encode(), headers=headers)
    assert answer.status_code < 500, (path, sent, answer.text)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}


@hypothesis.settings(max_examples=300, suppress_health_check=list(hypothesis.HealthCheck))
@given(st.sampled_from([path for path, _ in POSTS]), st.binary(max_size=60))
def test_bytes_that_are_no_json_are_never_the_server_s_fault(path: str, body: bytes) -> None:
    answer = HTTP.post(path.replace("{id}", "german"), content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


@hypothesis.settings(max_examples=300, suppress_health_check=list(hypothesis.HealthCheck))
@given(
    st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
    st.sampled_from(sorted(SCHEMA["paths"])),
    st.text(min_size=1, max_size=20),
)
def test_other_methods_and_names_are_never_the_server_s_fault(method: str, path: str, name: str) -> None:
    answer = HTTP.request(method, path.replace("{id}", quote(name, safe="")), params={"culture": name})
    assert answer.status_code < 500
