"""vLLM in the engine's place: Ray's own LLMServer over a stand-in for vLLM, behind the gateway as it is.

What is answered is held against this project's engine on the same weights. Where vLLM is installed (`make test-vllm`),
it is asked itself, and what only the stand-in does is skipped.
"""

import asyncio
import contextlib
import importlib.util
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from cp_ray.errors import BaseModelError
from cp_ray.records import Message
from cp_ray.serving.app import ServeSpec, Settings, serving, start
from cp_ray.serving.chat import ChatRequest, ModelSpec
from cp_ray.serving.engine import Engine
from tests.serving.stubs import BROKEN, REFUSED, SLOW
from tests.tiny import make_adapter, make_base

ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parent / "stubs"
CHAT: Any = [{"role": "user", "content": "tell me"}]
INSTALLED = importlib.util.find_spec("vllm") is not None
stand_in = pytest.mark.skipif(INSTALLED, reason="vLLM itself fails and waits when it pleases")
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": False}


@dataclass(frozen=True)
class Served:
    url: str
    engine: Engine
    """This project's, with the same models."""
    german: str
    """What vLLM's replica knows the model by."""


@pytest.fixture(scope="module")
def paths() -> Iterator[list[str]]:
    """Where vLLM's stand-in lies; what was imported through it is forgotten at the end."""
    if INSTALLED:
        yield []
        return
    found = [str(STUBS / "engine")]
    if importlib.util.find_spec("httpx") is None:
        found.append(str(STUBS / "client"))
    sys.path[:0] = found
    before = set(sys.modules)
    yield found
    del sys.path[: len(found)]
    through = ("vllm", "httpx", "ray.serve.llm", "ray.llm", "cp_ray.serving.vllm")
    for name in set(sys.modules) - before:
        if name in through or name.startswith(tuple(f"{each}." for each in through)):
            del sys.modules[name]


@contextlib.contextmanager
def running_in(paths: list[str]) -> Iterator[None]:
    """What is started is the stand-in where vLLM is not installed, and on loopback."""
    from ray.serve.llm import LLMConfig

    import cp_ray.serving.vllm as vllm

    variables = {"PYTHONPATH": ":".join([*paths, str(ROOT)]), "OMP_NUM_THREADS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    if not INSTALLED:
        variables["RAYLLM_VLLM_ENGINE_CLS"] = "tests.serving.fake_vllm.FakeEngine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "LLMConfig", lambda **fields: LLMConfig(runtime_env={"env_vars": variables}, **fields))
        yield


@pytest.fixture(scope="module")
def served(ray_cluster: None, paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("vllm")
    base = make_base(root / "base", context=512, size=128)  # vLLM takes no heads of less than 32
    one = make_adapter(base, root / "one", 1)
    make_adapter(base, root / "adapters" / "two", 2)
    make_adapter(base, root / "adapters" / "wide", 3, r=32)
    models = (ModelSpec("german", str(one), "german", "German", locales=("de",)), ModelSpec("base"))
    settings = Settings(engine="vllm", adapters=str(root / "adapters"), num_cpus=0.5)
    spec = ServeSpec(str(base), models)
    with running_in(paths), serving(spec, name="vllm", route_prefix="/vllm", settings=settings) as url:
        engine = Engine(str(base), {"german": one, "base": None}, dtype="float32")
        yield Served(url, engine, models[0].engine_name)


def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)


def post(served: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    url = served.url.removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@pytest.mark.parametrize("model", ["german", "base"])
@pytest.mark.parametrize("stream", [False, True])
def test_both_engines_answer_alike_with_the_same_log_probabilities(served: Served, model: str, stream: bool) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    mine: Any = served.engine.generate([ChatRequest(model, messages(), logprobs=2, **options)])[0]
    if stream:
        chunks: Any = client(served).chat.completions.create(
            model=model, messages=CHAT, logprobs=True, top_logprobs=2, stream=True,
            stream_options={"include_usage": True}, **options,
        )  # fmt: skip
        told = list(chunks)
        usage, choices = told[-1].usage, [chunk.choices[0] for chunk in told[:-1]]
        text, reason = "".join(c.delta.content for c in choices), choices[-1].finish_reason
        tokens = [token for c in choices for token in c.logprobs.content]
        assert len(choices) > 5
    else:
        reply = client(served).chat.completions.create(
            model=model, messages=CHAT, logprobs=True, top_logprobs=2, **options
        )
        usage, text, reason = reply.usage, reply.choices[0].message.content, reply.choices[0].finish_reason
        assert reply.choices[0].logprobs is not None
        tokens = reply.choices[0].logprobs.content
    # vLLM leaves out half a letter at the end.
    assert (text.rstrip("\ufffd"), reason) == (mine.text.rstrip("\ufffd"), mine.finish_reason)
    assert (usage.prompt_tokens, usage.completion_tokens) == (mine.prompt_tokens, mine.completion_tokens)
    assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert [token.token for token in tokens] == [token.text for token in mine.logprobs]
    assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in mine.logprobs], abs=1e-4)
    assert [[top.token for top in token.top_logprobs] for token in tokens] == [
        [text for text, _ in token.top] for token in mine.logprobs
    ]


def test_ray_takes_the_configuration(paths: list[str]) -> None:
    from cp_ray.serving.vllm import llm_config

    spec = ServeSpec("an/id", (ModelSpec("base"),))
    settings = Settings(
        engine="vllm", num_gpus=2, num_cpus=4, max_rows=8, max_adapters=3, dtype="bfloat16", prefix_mib=0
    )
    config = llm_config(spec, settings, {"name": "engine", "num_replicas": 2})
    engine: Any = config.get_engine_config()
    assert engine.actual_hf_model_id == "an/id"
    assert engine.placement_bundles == [{"GPU": 1}, {"GPU": 1}]
    assert config.deployment_config["ray_actor_options"] == {"num_cpus": 4}
    kwargs = engine.get_initialization_kwargs()
    assert {
        "max_num_seqs": 8,
        "max_loras": 3,
        "dtype": "bfloat16",
        "enable_prefix_caching": False,
    }.items() <= kwargs.items()
    assert engine.frontend_kwargs == {"enable_prompt_tokens_details": True}


def test_on_cpus_its_cache_holds_the_tokens_that_were_asked_for(paths: list[str]) -> None:
    from transformers import LlamaConfig

    from cp_ray.serving.vllm import _on_cpus

    shape = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    told = _on_cpus(shape, Settings(engine="vllm", max_tokens=1000, dtype="bfloat16"))
    assert told == {"dtype": "bfloat16", "kv_cache_memory_bytes": (1000 + 2 * 128) * 2 * 3 * 2 * 16 * 2}


@pytest.mark.long
def test_that_it_does_not_start_is_one_line(ray_cluster: None, paths: list[str], tmp_path: Path) -> None:
    spec = ServeSpec(str(make_base(tmp_path / "base", size=128)), (ModelSpec("base"),))
    settings = Settings(engine="vllm", num_cpus=0.5, max_tokens=10**10)
    with running_in(paths), pytest.raises(BaseModelError) as told:
        start(spec, name="too-much", route_prefix="/too-much", settings=settings)
    assert re.fullmatch(
        r"engine: vLLM does not start \(Engine core initialization failed\. .*\); its log says why", str(told.value)
    )


def messages() -> Any:
    return (Message("user", "tell me"),)


def test_n_seed_and_stop(served: Served) -> None:
    def ask(**options: Any) -> list[str]:
        reply = client(served).chat.completions.create(model="base", messages=CHAT, max_tokens=20, **options)
        return [choice.message.content or "" for choice in reply.choices]

    several = ask(n=3, seed=2**70)
    assert len(set(several)) == 3
    assert ask(n=3, seed=2**70) == several
    whole = ask(temperature=0)[0]
    assert ask(temperature=0, stop=whole[4:6])[0] == whole[: whole.index(whole[4:6])]


def test_a_text_goes_on(served: Served) -> None:
    mine: Any = served.engine.generate([ChatRequest("german", (), text="Once", temperature=0, max_tokens=8)])[0]
    reply = client(served).completions.create(model="german", prompt="Once", temperature=0, max_tokens=8)
    assert reply.choices[0].text == mine.text


def test_a_json_schema_and_a_choice_are_followed(served: Served) -> None:
    asked: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    reply = client(served).chat.completions.create(model="base", messages=CHAT, response_format=asked)
    assert json.loads(reply.choices[0].message.content or "") == {"a": "b"}
    reply = client(served).chat.completions.create(
        model="base", messages=CHAT, extra_body={"structured_outputs": {"choice": ["Yes", "No"]}}
    )
    assert reply.choices[0].message.content in ("Yes", "No")


@pytest.mark.parametrize("choices", [("Very good",), ("Very good", "Very bad", "Neither")])
def test_the_log_probability_of_a_whole_choice_is_the_free_model_s(served: Served, choices: tuple[str, ...]) -> None:
    reply = client(served).chat.completions.create(
        model="german", messages=CHAT, logprobs=True, top_logprobs=2,
        extra_body={"structured_outputs": {"choice": list(choices)}},
    )  # fmt: skip
    text = reply.choices[0].message.content or ""
    assert text in choices
    mine: Any = served.engine.generate([ChatRequest("german", messages(), choices=(text,), logprobs=2)])[0]
    assert reply.choices[0].logprobs is not None
    told = reply.choices[0].logprobs.content or []
    assert [token.logprob for token in told] == pytest.approx([token.logprob for token in mine.logprobs], abs=1e-4)
    assert [[top.token for top in token.top_logprobs] for token in told] == [
        [text for text, _ in token.top] for token in mine.logprobs
    ]


def test_labels_are_scored_and_moderation_works(served: Served) -> None:
    from ray import serve

    handle: Any = serve.get_deployment_handle("engine", "vllm")
    request = ChatRequest("german", messages(), labels=("Yes", "No"))
    mine: Any = served.engine.generate([request])[0]
    (told,) = handle.options(stream=True).stream.remote(replace(request, model=served.german))
    assert told.labels == pytest.approx(mine.labels, abs=1e-4)
    result = post(served, "/v1/moderations", {"input": "You fool.", "culture": "german"})["results"][0]
    assert len(set(result["category_scores"].values())) == 13


def test_what_is_kept_of_a_tenant_s_chats_is_told_to_no_other(served: Served) -> None:
    from ray import serve

    handle: Any = serve.get_deployment_handle("engine", "vllm")

    def asked(tenant: str) -> Any:
        # vLLM keeps whole blocks, of 128 tokens on CPUs.
        request = ChatRequest("base", (Message("user", "my PIN is 4711, " * 10),), max_tokens=1, tenant=tenant)
        (told,) = handle.options(stream=True).stream.remote(request, True)
        return told

    told = [asked(tenant) for tenant in ("school", "thief", "school")]
    assert [one.cached_tokens for one in told[:2]] == [0, 0]
    assert told[2].cached_tokens >= 128


def test_versions_are_checked_promoted_and_rolled_back(served: Served) -> None:
    def ask() -> str:
        reply = client(served).chat.completions.create(model="german", messages=CHAT, temperature=0, max_tokens=12)
        return reply.choices[0].message.content or ""

    first = ask()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(served, "/admin/models/german/versions", {"version": "2", "adapter": "wide", "share": 1})
    assert "LoRA rank 32 is greater" in json.load(refused.value)["error"]["message"]
    post(served, "/admin/models/german/versions", {"version": "2", "adapter": "two", "share": 1})
    second = ask()
    assert second != first
    post(served, "/admin/models/german/promote", {})
    assert ask() == second
    post(served, "/admin/models/german/rollback", {})
    assert ask() == first


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_one_line_whoever_finds_them(served: Served, stream: bool) -> None:
    def ask(content: str = "hi", **options: Any) -> list[Any]:
        chat: Any = [{"role": "user", "content": content}]
        told: Any = client(served).chat.completions.create(model="base", messages=chat, stream=stream, **options)
        return list(told)

    with pytest.raises(openai.BadRequestError, match="do not fit the model's context of 512"):
        ask("long " * 200)
    with pytest.raises(openai.NotFoundError, match="known: german, base"):
        client(served).chat.completions.create(model="klingon", messages=CHAT)


@stand_in
@pytest.mark.parametrize("stream", [False, True])
def test_what_vllm_refuses_and_how_it_fails_is_one_line(served: Served, stream: bool) -> None:
    def ask(**options: Any) -> list[Any]:
        told: Any = client(served).chat.completions.create(model="base", messages=CHAT, stream=stream, **options)
        return list(told)

    with pytest.raises(openai.BadRequestError, match=r"request: vLLM cannot answer it; this cannot be$"):
        ask(top_p=REFUSED)
    if stream:
        with pytest.raises(openai.APIError, match="the server failed to go on") as broken:
            ask(top_p=BROKEN, seed=1)
        assert "CUDA" not in str(broken.value)


@stand_in
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_is_given_up(served: Served, stream: bool) -> None:
    from ray import serve

    handle: Any = serve.get_deployment_handle("engine", "vllm")

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0) as http:
            for seed in range(100):
                asked: Any = asyncio.ensure_future(
                    http.chat.completions.create(model="base", messages=CHAT, max_tokens=SLOW, seed=seed, stream=stream)
                )
                while (asleep := await handle.is_sleeping.remote()) and not asked.done():
                    await asyncio.sleep(0.01)
                if stream:
                    await (await asked).close()
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                if not asleep:
                    return
        raise AssertionError("it was never seen at work")

    async def asleep() -> None:
        async with asyncio.timeout(20):
            while not await handle.is_sleeping.remote() or (await handle.load.remote()).rows:
                await asyncio.sleep(0.05)

    asyncio.run(leave())
    asyncio.run(asleep())


def test_embeddings_are_this_project_s_own(served: Served) -> None:
    reply = client(served).embeddings.create(model="minilm", input="A town by the sea.")
    assert len(reply.data[0].embedding) == 384
