"""The application on a real Ray: streams, versions, and replicas that die."""

import asyncio
import itertools
import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from cp_ray.serving.app import ServeSpec, Settings, serving
from cp_ray.serving.chat import ModelSpec
from tests.processes import ray_processes
from tests.tiny import make_adapter, make_base

pytestmark = pytest.mark.usefixtures("ray_cluster")
TEXT: Any = [{"role": "user", "content": "tell me"}]


@pytest.fixture(scope="module")
def url(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("served")
    base = make_base(root / "base", context=4096)
    one = make_adapter(base, root / "one", 1)
    make_adapter(base, root / "adapters" / "two", 2)
    spec = ServeSpec(str(base), (ModelSpec("german", str(one), "german", locales=("de",)), ModelSpec("base")))
    settings = Settings(adapters=str(root / "adapters"), num_cpus=0.5, dtype="float32")
    with serving(spec, name="cultures", route_prefix="/served", settings=settings) as address:
        yield address


def client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=500)


def ask(url: str, **options: Any) -> tuple[str, str]:
    """The answer, and the version that gave it."""
    arguments: dict[str, Any] = {"model": "german", "messages": TEXT, "temperature": 0, "max_tokens": 20} | options
    raw = openai.OpenAI(base_url=url, api_key="none").chat.completions.with_raw_response.create(**arguments)
    return raw.parse().choices[0].message.content or "", raw.headers["x-cp-version"]


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url.removesuffix("/v1") + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def kill_engine() -> None:
    import ray
    from ray.util import list_named_actors

    names = [a["name"] for a in list_named_actors(all_namespaces=True) if "#engine#" in a["name"]]
    assert len(names) == 1
    ray.kill(ray.get_actor(names[0], namespace="serve"))


def test_an_answer_streams_over_http(url: str) -> None:
    stream: Any = openai.OpenAI(base_url=url, api_key="none").chat.completions.create(
        model="german",
        messages=TEXT,
        temperature=0,
        max_tokens=20,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(pieces) > 5
    assert "".join(pieces) == ask(url)[0]


def test_an_engine_that_has_answered_is_told_to_prometheus_as_idle(url: str) -> None:
    ask(url)
    while engine_rows():
        time.sleep(0.05)
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as reply:
        text = reply.read().decode()
    assert [f'cp_ray_engine{{what="{what}"}} 0.0' in text for what in ("rows", "adapters", "held")] == [True] * 3


def test_a_new_version_is_loaded_promoted_and_rolled_back_under_traffic(url: str) -> None:
    first, version = ask(url)
    assert version == "1"
    post(url, "/admin/models/german/versions", {"version": "2", "adapter": "two", "share": 1})
    second, version = ask(url)
    assert version == "2"
    assert second != first
    answers = {"1": first, "2": second}

    async def traffic() -> list[tuple[str, str]]:
        async with client(url) as http:

            async def one() -> tuple[str, str]:
                raw = await http.chat.completions.with_raw_response.create(
                    model="german",
                    messages=TEXT,
                    temperature=0,
                    max_tokens=20,
                )
                return raw.parse().choices[0].message.content or "", raw.headers["x-cp-version"]

            told = []
            for path, body in (("share", {"share": 0.5}), ("promote", {}), ("rollback", {})):
                during = asyncio.gather(*(one() for _ in range(8)))
                await asyncio.to_thread(post, url, f"/admin/models/german/{path}", body)
                told += await during
            return told

    told = asyncio.run(traffic())
    assert all(answers[version] == text for text, version in told)
    assert ask(url) == (first, "1")
    assert len(copies_of_adapters()) == 1, "only the first version's is left"


def copies_of_adapters() -> list[Path]:
    (engine,) = ray_processes("ServeReplica:cultures:engine")
    return list(Path(tempfile.gettempdir()).glob(f"cp_ray-adapters-{engine.pid}-*/*"))


def engine_rows() -> int:
    from ray import serve

    rows: int = serve.get_deployment_handle("engine", "cultures").load.remote().result().rows
    return rows


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_nobody_waits_for_is_given_up(url: str, stream: bool) -> None:
    async def leave() -> Any:
        """What was asked, and left while the engine was at it."""
        async with client(url) as http:
            for attempt in itertools.count():
                chat: Any = [{"role": "user", "content": f"a long story, {stream}, {attempt}"}]
                whole = http.chat.completions.create(
                    model="base", messages=chat, max_tokens=3500, temperature=0, stream=stream
                )
                asked: Any = asyncio.create_task(whole)
                if stream:
                    await anext(aiter(await asked))
                while not (found := await asyncio.to_thread(engine_rows)) and not asked.done():
                    await asyncio.sleep(0.01)
                if stream:
                    await (await asked).close()
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                if found:
                    return chat

    chat = asyncio.run(leave())
    while engine_rows():
        time.sleep(0.05)
    # What is answered to the end is kept for chats that go on.
    again = openai.OpenAI(base_url=url, api_key="none").chat.completions.create(
        model="base", messages=chat, max_tokens=1
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens is not None
    assert again.usage.prompt_tokens_details.cached_tokens < again.usage.prompt_tokens - 5


@pytest.mark.timeout(600)
def test_no_accepted_request_is_lost_when_an_engine_dies_and_streams_end_with_an_error(url: str) -> None:
    async def run() -> tuple[list[str], list[str]]:
        async with client(url) as http:

            async def one(seed: int) -> str:
                reply = await http.chat.completions.create(
                    model="german",
                    messages=TEXT,
                    max_tokens=150,
                    seed=seed,
                )
                return reply.choices[0].message.content or ""

            async def streamed() -> str:
                try:
                    pieces: Any = await http.chat.completions.create(
                        model="german",
                        messages=TEXT,
                        max_tokens=200,
                        stream=True,
                        seed=3,
                    )
                    async for _ in pieces:
                        begun.set()
                except openai.APIError as error:
                    return str(error)
                return "whole"

            begun = asyncio.Event()
            before = [await one(seed) for seed in range(3)]
            stream = asyncio.create_task(streamed())
            await begun.wait()
            tasks = [asyncio.create_task(one(seed % 3)) for seed in range(12)]
            await asyncio.sleep(0.02)
            await asyncio.to_thread(kill_engine)
            after = await asyncio.gather(*tasks)
            assert all(text == before[k % 3] for k, text in enumerate(after))
            return after, [await stream]

    _, (end,) = asyncio.run(run())
    assert end == "whole" or "ask again" in end
