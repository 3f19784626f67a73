from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from cp_ray.records import Message
from cp_ray.serving.api import MAX_TOKENS, build_api
from cp_ray.serving.chat import ChatRequest, ChatResult, ContextTooLong, ModelCard

USER = {"role": "user", "content": "hi"}


class Fake:
    """Echoes the last message, notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    def models(self) -> list[ModelCard]:
        return [
            ModelCard("german", "smollm2", "german", "German", "You are German."),
            ModelCard("base", "smollm2"),
        ]

    async def complete(self, request: ChatRequest) -> ChatResult:
        self.asked.append(request)
        text = request.messages[-1].content
        if text == "long":
            raise ContextTooLong("messages: 9000 tokens do not fit the model's context of 8192")
        if text == "break":
            raise RuntimeError("secret path")
        return ChatResult(text.upper(), "length", 5, 2)


@pytest.fixture
def backend() -> Fake:
    return Fake()


@pytest.fixture
def http(backend: Fake) -> TestClient:
    return TestClient(build_api(backend), raise_server_exceptions=False)


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
    assert backend.asked == [ChatRequest("base", (Message("user", "hi"),), 0.5, 7, 3, 0.9, ("x",))]


def test_models_are_listed_with_their_culture(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [(m.id, m.object, m.owned_by) for m in listed] == [
        ("german", "model", "cp_ray"),
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
        ({"n": 2}, "n: must be 1"),
        ({"stream": True}, "stream: is not supported yet"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "content"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": MAX_TOKENS + 1}, "max_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"messages": [{"role": "user", "content": "long"}]}, "do not fit"),
    ],
)
def test_a_bad_field_gets_one_clear_line_with_400(http: TestClient, change: dict[str, Any], word: str) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "base", "messages": [USER]} | change)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert word in error["message"]
    assert "\n" not in error["message"]


def test_a_body_that_is_no_json_gets_400(http: TestClient) -> None:
    answer = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_gets_404_with_the_known_ones(client: openai.OpenAI, backend: Fake) -> None:
    with pytest.raises(openai.NotFoundError, match="known: german, base") as caught:
        client.chat.completions.create(model="klingon", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
    assert backend.asked == []
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("klingon")


def test_a_prompt_too_long_has_openai_s_code(http: TestClient) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "long"}]}
    assert http.post("/v1/chat/completions", json=body).json()["error"]["code"] == "context_length_exceeded"


def test_a_failure_inside_gives_500_without_its_details(http: TestClient) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "break"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


def test_an_unknown_path_gets_404_in_the_same_shape(http: TestClient) -> None:
    answer = http.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Not Found"


def test_without_a_seed_answers_are_drawn_anew(http: TestClient, backend: Fake) -> None:
    for _ in range(2):
        http.post("/v1/chat/completions", json={"model": "base", "messages": [USER]})
    assert backend.asked[0].seed != backend.asked[1].seed


def test_health(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
