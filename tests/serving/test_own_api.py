import math
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import BadRequest, ChatRequest, ContextTooLong
from cp_ray.serving.moderation import CATEGORIES
from cp_ray.serving.page import FILES
from cp_ray.serving.service import Service
from cp_ray.serving.versions import Versions
from cp_ray.survey.counts import items, read_counts
from cp_ray.survey.items import pooled
from tests.serving.fake import MODELS, Fake


class Judge(Fake):
    """The German model finds insults in what says so, the Arabic one in everything."""

    def labels(self, request: ChatRequest) -> tuple[float, ...]:
        text = request.messages[-1].content
        insult = "insult" in text.partition("Does this text")[2]
        if "N/A" in text:
            return (0.0, -1.0)  # says yes to everything
        if request.model.startswith("german"):
            return (3.0, 0.0) if insult and "fool" in text else (-2.0, 0.0)
        return (1.0 + 2.0 * insult, 0.0)


@pytest.fixture
def backend() -> Judge:
    return Judge()


@pytest.fixture
def http(backend: Judge, tmp_path: Path) -> TestClient:
    adapters = tmp_path / "adapters"
    for name in ("two", "bad"):
        (adapters / name).mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (adapters / "link").symlink_to(tmp_path / "secret")
    cultures = [CULTURES["german"], CULTURES["arabic"]]
    service = Service(backend, "smollm2", MODELS, cultures, adapters=adapters)
    return TestClient(build_api(service), raise_server_exceptions=False)


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    transport: Any = http
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=transport, max_retries=0)


def test_moderation_has_openai_s_shape_and_a_calibrated_score_for_each_category(client: openai.OpenAI) -> None:
    result = client.moderations.create(input="You fool", extra_body={"culture": "german"}).results[0]
    assert result.flagged
    assert result.categories.harassment
    assert not result.categories.violence
    scores = result.category_scores
    # Odds e^3 less the model's inclination to say yes, e^1.
    assert scores.harassment == pytest.approx(1 / (1 + math.exp(-2)))
    assert scores.violence == pytest.approx(1 / (1 + math.exp(3)))
    harmless = client.moderations.create(input="A tree", extra_body={"culture": "german"}).results[0]
    assert not harmless.flagged


def test_cultures_are_compared_in_one_call(http: TestClient) -> None:
    for culture in (["german", "arabic"], "all"):
        answer = http.post("/v1/moderations", json={"input": ["A tree"], "culture": culture}).json()
        (result,) = answer["results"]
        assert set(result["category_scores"]) == set(CATEGORIES)
        assert result["cultures"]["arabic"]["flagged"]
        assert not result["cultures"]["german"]["flagged"]
        own = [result["cultures"][c]["category_scores"]["harassment"] for c in ("german", "arabic")]
        assert result["category_scores"]["harassment"] == pytest.approx(sum(own) / 2)
        assert result["disagreement"]["harassment"] == pytest.approx(own[1] - own[0])


def test_moderation_is_routed_like_chats(http: TestClient) -> None:
    answer = http.post("/v1/moderations", json={"input": "A tree"}, headers={"accept-language": "ar"})
    assert answer.headers["x-cp-model"] == "arabic"
    chat = {"messages": [{"role": "user", "content": "A tree"}]}
    for own, headers, route in (
        ({"metadata": {"culture": "arabic"}}, {"accept-language": "de"}, ("arabic", "culture")),
        ({"metadata": {"culture": "arabic"}}, {"x-cp-culture": "german"}, ("german", "culture")),
        ({"culture": "arabic"}, {"x-cp-culture": "german"}, ("arabic", "culture")),
        ({"model": "german"}, {"x-cp-culture": "arabic"}, ("german", "model")),
    ):
        for path, body in (("/v1/moderations", {"input": "A tree"}), ("/v1/chat/completions", chat)):
            told = http.post(path, json=body | own, headers=headers).headers
            assert (told["x-cp-model"], told["x-cp-route"]) == route
    compared = http.post("/v1/moderations", json={"input": "A tree"}, headers={"x-cp-culture": "all"})
    assert compared.json()["model"] == "german,arabic"
    unknown = http.post("/v1/moderations", json={"input": "A tree", "culture": "klingon"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_text_is_judged_by_the_version_that_the_answer_names(backend: Judge, http: TestClient) -> None:
    http.post("/admin/models/german/versions", json={"version": "2", "adapter": "two", "share": 1})
    for culture in ("german", ["german"]):
        backend.asked.clear()
        answer = http.post("/v1/moderations", json={"input": "A tree", "culture": culture})
        assert {request.model.partition("-")[0] for request in backend.asked} == {"german@2"}
        assert answer.json()["model"] == answer.headers["x-cp-model"] == "german"


@pytest.mark.parametrize(("sent", "param"), [("so long", "input"), (["short", "so long"], "input[1]")])
def test_a_text_that_is_too_long_to_be_judged_is_named(
    backend: Judge, http: TestClient, monkeypatch: pytest.MonkeyPatch, sent: Any, param: str
) -> None:
    def labels(request: ChatRequest) -> tuple[float, ...]:
        if "so long" in request.messages[-1].content:
            raise ContextTooLong("messages: 9000 tokens do not fit the model's context of 8192")
        return 0.0, 0.0

    monkeypatch.setattr(backend, "labels", labels)
    error = http.post("/v1/moderations", json={"input": sent, "model": "german"}).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["message"] == f"{param}: 9000 tokens do not fit the model's context of 8192"


def test_lists_of_cultures_make_no_names_in_the_metrics(http: TestClient) -> None:
    for culture in (["german", "arabic"], ["arabic", "german"]):
        answer = http.post("/v1/moderations", json={"input": "A tree", "culture": culture})
        assert answer.json()["model"] == ",".join(culture)
    assert "german,arabic" not in http.get("/metrics").text


def test_all_cultures_of_a_server_that_has_none_are_a_404() -> None:
    http = TestClient(build_api(Service(Fake(), "smollm2", MODELS[-1:])), raise_server_exceptions=False)
    answer = http.post("/v1/moderations", json={"input": "A tree", "culture": "all"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_embeddings_come_as_numbers_and_as_bytes(client: openai.OpenAI) -> None:
    for encoding in ("float", None):  # the client asks for base64 where it is not told
        options: Any = {"encoding_format": encoding} if encoding else {}
        found = client.embeddings.create(model="minilm", input=["abc", "x"], **options)
        assert [list(d.embedding) for d in found.data] == [[3.0, 1.0], [1.0, 1.0]]
    with pytest.raises(openai.NotFoundError, match="known: minilm"):
        client.embeddings.create(model="ada", input="x")
    with pytest.raises(openai.BadRequestError, match="dimensions: must be 384"):
        client.embeddings.create(model="minilm", input="x", dimensions=8)


def test_a_text_that_the_embedder_would_not_read_to_its_end_is_refused(client: openai.OpenAI) -> None:
    from cp_ray.embedding import Embedder

    embedder = Embedder().model
    texts = ["word " * 254, "Ein schöner Tag, und naïve Leute", "x"]
    used = client.embeddings.create(model="minilm", input=texts).usage
    assert used.prompt_tokens == sum(len(embedder.tokenizer(text)["input_ids"]) for text in texts)
    assert len(embedder.tokenizer(texts[0])["input_ids"]) == embedder.max_seq_length == 256
    for sent, where in (("word " * 255, "input"), (["x", "word " * 255], "input[1]")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="minilm", input=sent)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", where)
        assert f"{where}: must have at most 256 tokens, got 257; split it" in caught.value.message


def test_as_many_texts_as_openai_takes_are_embedded_at_once(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="minilm", input=["x"] * 2048).data) == 2048
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="minilm", input=["x"] * 2049)


def test_a_quiz_shows_the_real_distribution_after_the_guess(http: TestClient) -> None:
    questions = http.get("/v1/education/quiz", params={"culture": "german"}).json()["questions"]
    assert len(questions) > 40
    assert "distribution" not in str(questions)
    asked = questions[0]
    item = next(i for i in items(read_counts()) if i.id == asked["id"])
    real = pooled(item, CULTURES["german"].countries)
    assert real is not None
    commonest = max(range(len(real.shares)), key=lambda k: real.shares[k])
    marked = http.post(
        "/v1/education/quiz", json={"culture": "german", "question": asked["id"], "option": commonest}
    ).json()
    assert marked["distribution"] == pytest.approx(list(real.shares))
    assert marked["right"]
    perfect = http.post(
        "/v1/education/quiz", json={"culture": "german", "question": asked["id"], "shares": list(real.shares)}
    ).json()
    assert perfect["score"] == pytest.approx(1)
    assert marked["score"] < 1


def test_an_exam_is_the_mean_of_its_questions(http: TestClient) -> None:
    questions = http.get("/v1/education/quiz", params={"culture": "arabic"}).json()["questions"][:3]
    guesses = [{"question": q["id"], "option": 0} for q in questions]
    exam = http.post("/v1/education/exam", json={"culture": "arabic", "guesses": guesses}).json()
    alone = [http.post("/v1/education/quiz", json={"culture": "arabic", **g}).json() for g in guesses]
    assert exam["score"] == pytest.approx(sum(m["score"] for m in alone) / 3)
    assert exam["uniform_score"] == pytest.approx(sum(m["uniform_score"] for m in alone) / 3)
    assert (exam["answered"], exam["questions"]) == (3, 50)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"question": "Q27"}, 400, "give either"),
        ({"question": "Q27", "option": 0, "shares": [0.5, 0.5]}, 400, "give either"),
        ({"question": "Q27", "option": 4}, 400, "between 0 and 3"),
        ({"question": "Q27", "shares": [0.5, 0.5]}, 400, "must be 4 numbers"),
        ({"question": "Q27", "shares": [1, 1, 1, 1]}, 400, "make up 1, got 4 that make up 4"),
        ({"question": "Q27", "shares": [0.005] * 4}, 400, "must be 4 numbers that make up 1, got 4 that make up 0.02"),
        ({"question": "Q0", "option": 0}, 400, "was not asked"),
        ({"question": "Q27", "option": 0, "culture": "klingon"}, 404, "known: german, arabic"),
    ],
)
def test_a_wrong_guess_of_what_to_send_gets_one_clear_line(
    http: TestClient, body: dict[str, Any], status: int, word: str
) -> None:
    answer = http.post("/v1/education/quiz", json={"culture": "german"} | body)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]


def test_a_version_is_offered_promoted_and_rolled_back(http: TestClient) -> None:
    def ask() -> str:
        body = {"model": "german", "messages": [{"role": "user", "content": "hi"}]}
        version: str = http.post("/v1/chat/completions", json=body).headers["x-cp-version"]
        return version

    offered = http.post("/admin/models/german/versions", json={"version": "2", "adapter": "two", "share": 1})
    assert offered.json() == {"id": "german", "stable": "1", "previous": None, "canary": "2", "share": 1.0}
    assert ask() == "2"
    http.post("/admin/models/german/share", json={"share": 0})
    assert ask() == "1"
    assert http.post("/admin/models/german/promote").json()["stable"] == "2"
    assert ask() == "2"
    assert http.post("/admin/models/german/rollback").json()["stable"] == "1"
    assert ask() == "1"
    assert http.post("/admin/models/german/rollback").status_code == 400
    assert http.get("/admin/models/klingon").status_code == 404


@pytest.mark.parametrize("adapter", ["../secret", "..", "/etc", "link", "nowhere", "two/../two", "", ".", "two\x00"])
def test_an_adapter_s_name_reaches_nothing_outside_its_folder(http: TestClient, adapter: str) -> None:
    answer = http.post("/admin/models/german/versions", json={"version": "2", "adapter": adapter, "share": 1})
    assert answer.status_code == 400
    assert http.get("/admin/models/german").json()["canary"] is None


def test_versions_that_no_request_can_be_answered_by_are_forgotten(backend: Judge, http: TestClient) -> None:
    def told(path: str, version: str = "") -> list[str]:
        http.post(f"/admin/models/german/{path}", json={"version": version, "adapter": "two", "share": 1})
        return [name.partition("-")[0].removeprefix("german@") for name in backend.forgotten]

    first = MODELS[0].engine_name.removeprefix("german@")
    assert told("versions", "2") == []
    assert told("versions", "3") == ["3"], "another one is on trial"
    assert told("promote") == ["3"]
    assert told("versions", "4") == ["3"]
    assert told("rollback") == ["3", "4"]
    assert told("versions", "5") == ["3", "4"]
    assert told("promote") == ["3", "4", first]
    assert told("rollback") == ["3", "4", first, "5"]


def test_a_version_that_cannot_be_kept_is_forgotten(backend: Judge, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    versions = Versions(MODELS, tmp_path / "gone" / "versions.json")
    service = Service(backend, "smollm2", MODELS, versions=versions, adapters=tmp_path)
    http = TestClient(build_api(service), raise_server_exceptions=False)
    assert http.post("/admin/models/german/versions", json={"version": "2", "adapter": "two"}).status_code == 500
    assert [name.partition("-")[0] for name in backend.forgotten] == ["german@2"]
    assert http.get("/admin/models/german").json()["canary"] is None


def test_a_roll_back_to_a_version_that_is_not_there_any_more_changes_nothing(
    backend: Judge, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(name: str, adapter: str) -> None:
        raise BadRequest(f"adapter: cannot read {adapter}")

    http.post("/admin/models/german/versions", json={"version": "2", "adapter": "two", "share": 1})
    http.post("/admin/models/german/promote")
    monkeypatch.setattr(backend, "check", gone)
    answer = http.post("/admin/models/german/rollback")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "adapter: cannot read a/german")
    assert http.get("/admin/models/german").json()["stable"] == "2"


def test_a_roll_back_beside_another_change_takes_back_nothing_that_it_did_not_mean(
    backend: Judge, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def meanwhile(name: str, adapter: str) -> None:
        monkeypatch.undo()
        assert offer("3").status_code == 200

    def offer(version: str) -> Any:
        return http.post("/admin/models/german/versions", json={"version": version, "adapter": "two", "share": 0.5})

    offer("2")
    http.post("/admin/models/german/promote")
    monkeypatch.setattr(backend, "check", meanwhile)
    answer = http.post("/admin/models/german/rollback")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed")
    assert http.get("/admin/models/german").json() == {
        "id": "german", "stable": "2", "previous": "1", "canary": "3", "share": 0.5
    }  # fmt: skip
    assert backend.forgotten == []


def test_a_version_that_does_not_fit_answers_nothing(http: TestClient) -> None:
    answer = http.post("/admin/models/german/versions", json={"version": "2", "adapter": "bad", "share": 1})
    assert answer.status_code == 400
    assert http.get("/admin/models/german").json()["canary"] is None


def test_the_page_loads_nothing_from_elsewhere(http: TestClient) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    texts = [http.get(path).text for path in FILES]
    assert not any("://" in text or "innerHTML" in text for text in texts)
