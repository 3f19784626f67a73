import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.serving.api import build_api
from cp_ray.serving.call import RequestLog
from cp_ray.serving.chat import ChatRequest, Load, Piece
from cp_ray.serving.keys import Key, Keys, new_key
from cp_ray.serving.limits import Gate
from cp_ray.serving.page import FILES
from cp_ray.serving.service import Service
from tests.serving.fake import MODELS, Fake

SCHOOL, ADMIN = new_key(), new_key()
KEYS = Keys(
    [
        Key("school", SCHOOL[1], requests_per_minute=4, models=("german",), culture="german"),
        Key("admin", ADMIN[1], admin=True),
    ]
)
ASK = {"model": "auto", "messages": [{"role": "user", "content": "what nobody else may read"}]}
EXAM = {"guesses": [{"question": "Q27", "option": 0}]}
PATHS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/moderations"),
    ("POST", "/v1/education/quiz"),
    ("GET", "/v1/education/quiz?culture=german"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/german"),
    ("GET", "/metrics"),
    ("GET", "/admin/models/german"),
    ("POST", "/admin/models/german/versions"),
    ("GET", "/v1/nothing"),
    ("GET", "//v1/models"),
]


def client(backend: Any = None, **options: Any) -> TestClient:
    return TestClient(build_api(Service(backend or Fake(), "smollm2", MODELS, **options)))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(SCHOOL[1])], ids=["none", "wrong", "hash"])
def test_without_a_valid_key_nothing_is_told(method: str, path: str, headers: dict[str, str]) -> None:
    answer = client(keys=KEYS).request(method, path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "german" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", *FILES])
def test_the_page_and_health_need_no_key(path: str) -> None:
    assert client(keys=KEYS).get(path).status_code == 200


def test_the_api_s_description_asks_for_a_key_where_one_is_needed_and_knows_the_errors() -> None:
    http = client(keys=KEYS)
    told = http.get("/openapi.json").json()
    assert told["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    schemas = told["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"]
            shown = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert shown == {"$ref": "#/components/schemas/ErrorBody"}
            if "security" not in operation:
                assert path in ("/healthz", "/readyz")
                continue
            assert operation["security"] == [{"key": []}]
            assert operation["responses"]["400"]["content"]["application/json"]["schema"] == shown
            assert http.request(method, path).status_code == 401
    wrong = http.post("/v1/chat/completions", json={}, headers=bearer(SCHOOL[0]))
    assert set(wrong.json()["error"]) == set(schemas["Fault"]["properties"])


def test_of_models_that_are_not_its_own_a_key_s_holder_learns_nothing() -> None:
    http = client(keys=KEYS)
    assert [m["id"] for m in http.get("/v1/models", headers=bearer(SCHOOL[0])).json()["data"]] == ["german"]
    for model in ("arabic", "klingon"):
        told = [
            http.get(f"/v1/models/{model}", headers=bearer(SCHOOL[0])),
            http.post("/v1/chat/completions", json=ASK | {"model": model}, headers=bearer(SCHOOL[0])),
        ]
        for answer in told:
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"model: '{model}' is not served; known: german, auto"
    assert http.get("/v1/models/arabic", headers=bearer(ADMIN[0])).status_code == 200
    assert http.get("/metrics", headers=bearer(SCHOOL[0])).status_code == 403
    assert http.get("/admin/models/german", headers=bearer(SCHOOL[0])).status_code == 403


def test_a_server_whose_keys_name_what_it_does_not_serve_does_not_start() -> None:
    with pytest.raises(ConfigError, match="keys: school: models: 'germann' is not served"):
        client(keys=Keys([Key("school", SCHOOL[1], models=("germann",))]))


def test_of_cultures_that_are_not_its_own_a_key_s_holder_learns_nothing() -> None:
    base, german = new_key(), new_key()
    keys = Keys([Key("base", base[1], models=("base",)), Key("german", german[1], models=("base", "german"))])
    http = client(keys=keys, cultures=[CULTURES["german"], CULTURES["arabic"]])
    for key, known in ((base, "none"), (german, "german")):
        for culture in ("base", "arabic"):
            for told in (
                http.get(f"/v1/education/quiz?culture={culture}", headers=bearer(key[0])),
                http.post("/v1/education/exam", json=EXAM | {"culture": culture}, headers=bearer(key[0])),
            ):
                assert told.status_code == 404
                assert told.json()["error"]["message"].endswith(f"; known: {known}")


def test_a_key_s_default_chooses_and_the_headers_say_so() -> None:
    answer = client(keys=KEYS).post("/v1/chat/completions", json=ASK, headers=bearer(SCHOOL[0]))
    assert answer.status_code == 200
    told = {name: answer.headers[name] for name in ("x-cp-model", "x-cp-version", "x-cp-route")}
    assert told == {"x-cp-model": "german", "x-cp-version": "1", "x-cp-route": "key"}
    assert answer.headers["x-request-id"].startswith("req-")


def test_too_many_requests_of_a_key_are_told_when_to_come_again() -> None:
    http = client(keys=KEYS)
    statuses = [http.post("/v1/chat/completions", json=ASK, headers=bearer(SCHOOL[0])).status_code for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2
    refused = http.post("/v1/chat/completions", json=ASK, headers=bearer(SCHOOL[0]))
    assert 1 <= int(refused.headers["retry-after"]) <= 15
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert http.get("/v1/models", headers=bearer(SCHOOL[0])).status_code == 200
    assert http.post("/v1/chat/completions", json=ASK | {"model": "base"}, headers=bearer(ADMIN[0])).status_code == 200


def test_tokens_are_counted_with_what_is_streamed() -> None:
    key = Key("k", SCHOOL[1], tokens_per_minute=10)
    http = client(keys=Keys([key]))
    body = {"model": "base", "messages": [{"role": "user", "content": "a long text"}], "stream": True}
    assert http.post("/v1/chat/completions", json=body, headers=bearer(SCHOOL[0])).status_code == 200
    refused = http.post("/v1/chat/completions", json=body, headers=bearer(SCHOOL[0]))
    assert refused.status_code == 429
    assert "10 tokens per minute" in refused.json()["error"]["message"]


class Endless(Fake):
    """Draws for as long as somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        for k in range(1, 10_000):
            self.drawn += 1
            yield Piece("x", "", 5, k)
            await asyncio.sleep(0.002)

    async def embed(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(60)
        return []


async def leave(http: TestClient, path: str, body: Any) -> None:
    """Ask, and go away while it is being answered."""
    head = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in bearer(SCHOOL[0]).items())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": head, "query_string": b"", "asgi": {}}
    sent = asyncio.Event()

    async def receive() -> Any:
        if sent.is_set():
            await asyncio.sleep(60)
        sent.set()
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Any) -> None:
        pass

    asked = asyncio.ensure_future(http.app(scope, receive, send))
    await asyncio.sleep(0.1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


@pytest.mark.parametrize("gone", [True, False], ids=["client left", "timeout"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_was_drawn_is_paid_for_however_a_request_ends(tmp_path: Path, stream: bool, gone: bool) -> None:
    backend = Endless()
    keys = Keys([Key("k", SCHOOL[1], tokens_per_minute=40), Key("admin", ADMIN[1], admin=True)])
    log = RequestLog(str(tmp_path / "log"), prompts=False)
    http = client(backend, keys=keys, log=log, timeout_s=60 if gone else 0.1)
    body = ASK | {"model": "base", "n": 4, "stream": stream}
    if gone:
        asyncio.run(leave(http, "/v1/chat/completions", body))
    else:
        http.post("/v1/chat/completions", json=body, headers=bearer(SCHOOL[0]))
    (line,) = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert backend.drawn > 40
    assert (line["prompt_tokens"], line["completion_tokens"]) == (5, backend.drawn)
    assert http.post("/v1/chat/completions", json=body, headers=bearer(SCHOOL[0])).status_code == 429
    metrics = http.get("/metrics", headers=bearer(ADMIN[0])).text
    assert f'cp_ray_tokens_total{{kind="drawn",model="base"}} {float(backend.drawn)}' in metrics


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "base", "messages": [{"role": "user", "content": "tell me " * 50}]}),
        ("/v1/completions", {"model": "base", "prompt": "tell me " * 50}),
        ("/v1/moderations", {"model": "base", "input": "tell me " * 50}),
        ("/v1/embeddings", {"model": "minilm", "input": ["tell me " * 50, "more"]}),
    ],
)
def test_a_prompt_is_paid_for_that_is_given_up_before_anything_is_told_of_it(path: str, body: Any) -> None:
    backend = Slow()
    # Long enough for a tokenizer to be loaded and the prompt counted.
    http = client(backend, keys=Keys([Key("k", SCHOOL[1], tokens_per_minute=40)]), timeout_s=2)
    assert http.post(path, json=body, headers=bearer(SCHOOL[0])).status_code == 504
    assert http.post(path, json=body, headers=bearer(SCHOOL[0])).status_code == 429


@pytest.mark.parametrize(("text", "status"), [("long", 400), ("gone", 503), ("break", 500)])
@pytest.mark.parametrize("stream", [True, False])
def test_what_the_engine_refuses_costs_nothing(tmp_path: Path, text: str, status: int, stream: bool) -> None:
    log = RequestLog(str(tmp_path / "log"), prompts=False)
    http = TestClient(build_api(Service(Fake(), "smollm2", MODELS, log=log)), raise_server_exceptions=False)
    body = {"model": "base", "messages": [{"role": "user", "content": text}], "stream": stream}
    assert http.post("/v1/chat/completions", json=body).status_code == status
    line = json.loads((tmp_path / "log").read_text())
    assert (line["prompt_tokens"], line["completion_tokens"]) == (0, 0)


class Slow(Fake):
    """Answers when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        try:
            if request.messages and request.messages[-1].content == "half":
                yield Piece("H", "", 5, 1)
            await asyncio.sleep(60)
        finally:
            self.left += 1

    async def embed(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(60)
        return []


def test_what_takes_too_long_is_ended_and_its_work_given_up() -> None:
    backend = Slow()
    http = client(backend, timeout_s=0.05)
    answer = http.post("/v1/chat/completions", json=ASK | {"model": "base"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    half = {"model": "base", "messages": [{"role": "user", "content": "half"}], "stream": True}
    streamed = http.post("/v1/chat/completions", json=half)
    assert streamed.status_code == 200
    *_, last = [line for line in streamed.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert backend.left == 2


@pytest.mark.parametrize(
    ("text", "status", "error"), [("snap", 502, "ask again"), ("crash", 502, "secret path"), ("half", 504, "timeout")]
)
def test_a_stream_that_breaks_counts_as_broken(tmp_path: Path, text: str, status: int, error: str) -> None:
    log = RequestLog(str(tmp_path / "log"), prompts=False)
    http = client(Slow() if text == "half" else Fake(), log=log, timeout_s=0.1 if text == "half" else 60)
    body = {"model": "base", "messages": [{"role": "user", "content": text}], "stream": True}
    assert http.post("/v1/chat/completions", json=body).status_code == 200, "it had begun well"
    line = json.loads((tmp_path / "log").read_text())
    assert line["status"] == status
    assert error in line["error"]
    metrics = http.get("/metrics").text
    assert f'cp_ray_requests_total{{model="base",path="/v1/chat/completions",status="{status}"' in metrics


def test_one_that_leaves_makes_room() -> None:
    backend = Slow()
    gate = Gate(10)
    http = client(backend, timeout_s=0.05, gate=gate)
    for _ in range(12):
        assert http.post("/v1/chat/completions", json=ASK | {"model": "base"}).status_code == 504
    assert gate.under_way == 0


def test_a_server_that_goes_away_takes_no_more() -> None:
    service = Service(Fake(), "smollm2", MODELS)
    http = TestClient(build_api(service))
    service.draining = True
    refused = http.post("/v1/chat/completions", json=ASK)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200


def test_a_body_that_is_too_long_is_refused_unread() -> None:
    answer = client().post("/v1/chat/completions", content=b"x" * 4_000_001)
    assert answer.status_code == 413


def test_a_body_that_comes_in_pieces_is_refused_once_it_is_too_long() -> None:
    sent: list[int] = []

    def pieces() -> Iterator[bytes]:
        for k in range(9):
            sent.append(k)
            yield b" " * 1_000_000

    backend = Fake()
    answer = client(backend).post(
        "/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["message"]) == (413, "the body may have 4000000 bytes")
    assert backend.asked == []


def test_a_line_is_logged_for_each_request_and_says_nothing_of_what_was_asked(tmp_path: Path) -> None:
    http = client(keys=KEYS, log=RequestLog(str(tmp_path / "log"), prompts=False))
    http.post("/v1/chat/completions", json=ASK, headers=bearer(SCHOOL[0]))
    http.post("/v1/chat/completions", json=ASK)
    http.post("/v1/chat/completions", json=ASK | {"model": "klingon"}, headers=bearer(SCHOOL[0]))
    first, denied, unknown = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert (first["key"], first["status"], first["model"], first["version"]) == ("school", 200, "german", "1")
    assert (first["why"], first["prompt_tokens"], first["completion_tokens"]) == ("key", 5, 25)
    assert denied["status"] == 401
    assert (unknown["status"], unknown["error"]) == (404, "404")
    text = (tmp_path / "log").read_text()
    assert "nobody else may read" not in text
    assert SCHOOL[0] not in text


def test_prompts_are_logged_only_where_that_is_asked_for(tmp_path: Path) -> None:
    client(log=RequestLog(str(tmp_path / "log"), prompts=True)).post(
        "/v1/chat/completions", json=ASK | {"model": "base"}
    )
    assert json.loads((tmp_path / "log").read_text())["prompt"] == "what nobody else may read"


def test_what_a_client_sends_neither_breaks_a_line_nor_steers_a_terminal(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\u009b31mred"
    chat = [{"role": "user", "content": text}]
    client(log=RequestLog(str(tmp_path / "log"), prompts=True)).post(
        "/v1/chat/completions", json=ASK | {"model": "base", "messages": chat}
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.isprintable()
    assert json.loads(line)["prompt"] == text


def test_prometheus_is_told_of_requests_tokens_and_refusals() -> None:
    http = client(keys=KEYS)
    for _ in range(5):
        http.post("/v1/chat/completions", json=ASK, headers=bearer(SCHOOL[0]))
    http.get("/v1/made/up/by/a/client", headers=bearer(SCHOOL[0]))
    text = http.get("/metrics", headers=bearer(ADMIN[0])).text
    path = "/v1/chat/completions"
    assert f'cp_ray_requests_total{{model="german",path="{path}",status="200",version="1"}} 4.0' in text
    assert 'cp_ray_tokens_total{kind="prompt",model="german"} 20.0' in text
    assert 'cp_ray_refused_total{code="rate_limit_exceeded"} 1.0' in text
    assert 'cp_ray_routes_total{why="key"} 4.0' in text
    assert "cp_ray_under_way 0.0" in text
    assert "cp_ray_first_token_seconds_count" not in text
    http.post("/v1/chat/completions", json=ASK | {"model": "base", "stream": True}, headers=bearer(ADMIN[0]))
    assert 'cp_ray_first_token_seconds_count{model="base"} 1.0' in http.get("/metrics", headers=bearer(ADMIN[0])).text
    assert "made/up" not in text


def test_what_the_engine_is_busy_with_is_asked_when_prometheus_asks() -> None:
    backend = Fake()
    http = client(backend)
    backend.busy = Load(2, 1, 3, 50)
    http.post("/v1/chat/completions", json=ASK | {"model": "base"})
    text = http.get("/metrics").text
    told = {"rows": 2, "adapters": 1, "waiting": 3, "held": 50}
    assert all(f'cp_ray_engine{{what="{what}"}} {number}.0' in text for what, number in told.items())
    backend.busy = Load(0, 0, 0, 0)
    text = http.get("/metrics").text
    assert all(f'cp_ray_engine{{what="{what}"}} 0.0' in text for what in told)
    backend.busy = None
    assert "cp_ray_engine{" not in http.get("/metrics").text


def test_the_dashboard_shows_what_prometheus_is_told() -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "serve" / "grafana.json").read_text())
    asked = {m for p in dashboard["panels"] for t in p["targets"] for m in re.findall(r"cp_ray_\w+", t["expr"])}
    http = client()
    http.post("/v1/chat/completions", json=ASK | {"model": "base"})
    text = http.get("/metrics").text
    missing = {name for name in asked if f"# TYPE {name.removesuffix('_bucket')} " not in text}
    assert missing == set()
    assert len(asked) >= 8
