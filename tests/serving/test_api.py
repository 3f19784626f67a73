import json
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from cp_ray.records import Message
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ChatRequest
from cp_ray.serving.service import Service
from tests.serving.fake import MODELS, Fake

USER = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.fixture
def backend() -> Fake:
    return Fake()


@pytest.fixture
def http(backend: Fake) -> TestClient:
    return TestClient(build_api(Service(backend, "smollm2", MODELS)), raise_server_exceptions=False)


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    transport: Any = http
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=transport, max_retries=0)


def test_the_official_client_gets_its_answer(client: openai.OpenAI, backend: Fake) -> None:
    completion = client.chat.completions.create(
        model="base",
        messages=[{"role": "user", "content": "hi"}],
        temperature=0.5,
        max_tokens=7,
        seed=3,
        top_p=0.9,
        stop="x",
    )
    assert completion.choices[0].message.content == "HI"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (5, 7)
    assert backend.asked == [
        ChatRequest("base", (Message("user", "hi"),), 0.5, 7, 3, 0.9, ("x",), tenant="anybody"),
    ]


def test_models_are_listed_with_their_culture(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [(m.id, m.object, m.owned_by) for m in listed] == [
        ("german", "model", "cp_ray"),
        ("arabic", "model", "cp_ray"),
        ("base", "model", "cp_ray"),
    ]
    extra = listed[0].model_extra
    assert extra is not None
    assert (extra["culture"], extra["language"], extra["base"]) == ("german", "German", "smollm2")
    assert client.models.retrieve("base").id == "base"


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ([USER], [("system", "You are German."), ("user", "hi")]),
        ([{"role": "system", "content": "S"}, USER], [("system", "S"), ("user", "hi")]),
        ([{"role": "developer", "content": "D"}, USER], [("system", "D"), ("user", "hi")]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [("system", "You are German."), ("user", "ab")],
        ),
    ],
)
def test_the_model_s_own_system_prompt_stands_in_for_a_missing_one(
    http: TestClient, backend: Fake, messages: list[dict[str, Any]], sent: list[tuple[str, str]]
) -> None:
    assert http.post("/v1/chat/completions", json={"model": "german", "messages": messages}).status_code == 200
    assert [(m.role, m.content) for m in backend.asked[0].messages] == sent


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n": 0}, "n: "),
        ({"n": 100}, "n: "),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"response_format": {"type": "json_schema"}}, "needs a json_schema"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "unicode"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role: "),
        ({"messages": [{"role": "user"}]}, "messages[0].content: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "content"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4_097}, "max_tokens: must be at most 4096 here, got 4097"),
        ({"max_completion_tokens": 9_000}, "max_completion_tokens: must be at most 4096 here"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"messages": [{"role": "user", "content": "long"}]}, "do not fit"),
    ],
)
def test_a_bad_field_gets_one_clear_line_with_400(http: TestClient, change: dict[str, Any], word: str) -> None:
    body = json.dumps({"model": "base", "messages": [USER]} | change)
    answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert word in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, 9),
        ({"max_tokens": 5_000}, 5_000),
        ({"max_completion_tokens": 7}, 7),
        ({"prompt": "hi"}, 16),
        ({"max_tokens": 1, "structured_outputs": {"choice": ["one of these, whole"]}}, 5_000),
    ],
)
def test_the_length_of_an_answer_is_as_asked_for_or_as_the_server_is_set(
    backend: Fake, asked: dict[str, Any], tokens: int
) -> None:
    http = TestClient(build_api(Service(backend, "smollm2", MODELS, answer_tokens=9, max_answer_tokens=5_000)))
    route, body = ("completions", {}) if "prompt" in asked else ("chat/completions", {"messages": [USER]})
    assert http.post(f"/v1/{route}", json={"model": "base"} | body | asked).status_code == 200
    assert [request.max_tokens for request in backend.asked] == [tokens]


@pytest.mark.parametrize(
    ("path", "body", "param", "word"),
    [
        ("chat/completions", {"messages": [USER, {"role": "user", "content": [TEXT, IMAGE]}]},
         "messages[1].content[1].type", "should be 'text'"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
         "messages[0].content[0].text", "string"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x" * 400_001}]},
         "messages[0].content", "at most 400000 characters"),
        ("chat/completions", {"messages": [{"role": "user", "content": [TEXT] * 257}]},
         "messages[0].content", "at most 256 items"),
        ("chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role", "required"),
        ("chat/completions", {"messages": [USER], "stop": list("abcde")}, "stop", "at most 4 items"),
        ("chat/completions", {"messages": [USER], "stop": ["a", 5]}, "stop[1]", "string"),
        ("completions", {"prompt": [1, 2, 3]}, "prompt[0]", "string"),
        ("embeddings", {"input": ["x"] * 2049}, "input", "at most 2048 items"),
        ("embeddings", {"input": [[1, 2], [3]]}, "input[0]", "string"),
        ("embeddings", {"input": 5}, "input", "string"),
        ("moderations", {"input": [TEXT, IMAGE]}, "input[1].type", "should be 'text'"),
        ("moderations", {"input": "x", "culture": {"string": "x"}}, "culture", "string"),
        ("moderations", {}, "input", "required"),
    ],
)  # fmt: skip
def test_of_several_forms_the_one_that_was_meant_is_told(
    http: TestClient, path: str, body: dict[str, Any], param: str, word: str
) -> None:
    answer = http.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}: ")
    assert word in error["message"]


def test_a_body_that_is_no_json_gets_400(http: TestClient) -> None:
    answer = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_gets_404_with_the_known_ones(client: openai.OpenAI, backend: Fake) -> None:
    with pytest.raises(openai.NotFoundError, match="known: german, arabic, base") as caught:
        client.chat.completions.create(model="klingon", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
    assert backend.asked == []
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("klingon")


def test_a_prompt_too_long_has_openai_s_code(http: TestClient) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "long"}]}
    assert http.post("/v1/chat/completions", json=body).json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_inside_gives_500_without_its_details(
    http: TestClient, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "break"}], "stream": stream}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text, "its holder can tell which failure it was"
    assert answer.headers["x-cp-model"] == "base"
    assert "RuntimeError: secret path" in caplog.text


def test_an_unknown_path_gets_404_in_the_same_shape(http: TestClient) -> None:
    answer = http.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Not Found"
    assert http.get("/v1/chat/completions").headers["allow"] == "POST"


def test_without_a_seed_answers_are_drawn_anew(http: TestClient, backend: Fake) -> None:
    for _ in range(2):
        http.post("/v1/chat/completions", json={"model": "base", "messages": [USER]})
    assert backend.asked[0].seed != backend.asked[1].seed


def test_health_and_readiness(http: TestClient, backend: Fake) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    backend.busy = None
    missing = http.get("/readyz")
    assert (missing.status_code, missing.json()) == (503, {"status": "no engine"})
    assert missing.headers["retry-after"]


def test_no_engine_is_a_503_to_come_back_after(http: TestClient) -> None:
    answer = http.post(
        "/v1/chat/completions", json={"model": "base", "messages": [{"role": "user", "content": "gone"}]}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_several_answers_to_one_request(client: openai.OpenAI, backend: Fake) -> None:
    completion = client.chat.completions.create(model="base", messages=[{"role": "user", "content": "hi"}], n=3, seed=4)
    assert [c.index for c in completion.choices] == [0, 1, 2]
    assert sorted((r.choice, r.seed) for r in backend.asked) == [(0, 4), (1, 4), (2, 4)]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 6)


def test_an_answer_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *told, usage = chunks
    assert "".join(c.choices[0].delta.content or "" for c in told) == "HELLO"
    assert told[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in told] == [None] * 4 + ["length"]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 5
    assert len({c.id for c in chunks}) == 1


def test_several_answers_stream_side_by_side(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "abc"}], stream=True, n=2
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "ABC", 1: "ABC"}


def test_what_is_wrong_with_a_request_is_told_with_a_status_even_when_streaming(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="do not fit"):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "long"}], stream=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [("snap", "is gone; ask again"), ("crash", "failed to go on"), ("cease", "before the answer")],
)
def test_a_stream_that_breaks_ends_with_an_error(
    client: openai.OpenAI, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = client.chat.completions.create(model="base", messages=[{"role": "user", "content": text}], stream=True)
    with pytest.raises(openai.APIError, match=told) as caught:
        list(stream)
    assert "secret" not in str(caught.value)
    assert ("a stream broke off" in caplog.text) == (text == "crash"), "what nobody foresaw is in the log"


def test_log_probabilities_have_openai_s_shape(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    ).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    first = choice.logprobs.content[0]
    assert (first.token, first.logprob, first.bytes) == ("H", -0.5, [72])
    assert [(t.token, t.logprob) for t in first.top_logprobs] == [("H", -0.5), ("J", -1.5)]
    plain = client.chat.completions.create(model="base", messages=[{"role": "user", "content": "hi"}]).choices[0]
    assert plain.logprobs is None


def test_a_schema_reaches_the_engine(client: openai.OpenAI, backend: Fake) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "string"}}}
    for format in ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, {"type": "json_object"}):
        anything: Any = format
        client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "hi"}], response_format=anything
        )
    assert [json.loads(r.schema) for r in backend.asked] == [schema, {"type": "object"}]


def test_texts_go_on(client: openai.OpenAI, backend: Fake) -> None:
    completion = client.completions.create(model="base", prompt=["once", "upon"], max_tokens=3, logprobs=1)
    assert [c.text for c in completion.choices] == ["ONCE", "UPON"]
    assert [(r.text, r.messages, r.max_tokens) for r in backend.asked] == [("once", (), 3), ("upon", (), 3)]
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.tokens == list("ONCE")
    assert [c.logprobs and c.logprobs.text_offset for c in completion.choices] == [[4, 5, 6, 7], [4, 5, 6, 7]]
    several = client.completions.create(model="base", prompt=["once", "upon"], n=3).usage
    assert several is not None
    assert (several.prompt_tokens, several.completion_tokens) == (10, 24)  # each prompt once, however often answered
    streamed = client.completions.create(model="base", prompt="once", stream=True)
    assert "".join(c.choices[0].text for c in streamed) == "ONCE"
    pieces = client.completions.create(model="base", prompt="once", stream=True, n=2, logprobs=0)
    choices = [c.choices[0] for c in pieces if c.choices[0].index == 1]
    assert [c.logprobs and c.logprobs.text_offset for c in choices] == [[4], [5], [6], [7]]
