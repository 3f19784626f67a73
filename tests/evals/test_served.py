"""A served adapter, judged through its endpoint over real HTTP, gets the figures of the local door."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from cp_ray.cultures import CULTURES
from cp_ray.evals.answer import AnswerConfig, answer, suited
from cp_ray.evals.choose import WHOLE
from cp_ray.evals.scorer import Asked, Scorer
from cp_ray.folder import open_folder
from cp_ray.llm.endpoint import Endpoint
from cp_ray.records import Item, Prediction
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ChatRequest, ChatResult, ModelSpec, Piece, whole
from cp_ray.serving.engine import Engine
from cp_ray.serving.loop import EngineLoop
from cp_ray.serving.service import Service
from cp_ray.survey.asking import ask
from tests.conftest import Server, free_port
from tests.tiny import make_adapter, make_base

OPTIONS = ("Definitely", "Probably", "Probably not", "Definitely not")


@pytest.fixture(scope="module", autouse=True)
def in_full_precision() -> Iterator[None]:
    """Where a CPU has bfloat16, the two doors would round apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cp_ray.llm.embedded.compute_dtype", lambda device, draws=False: torch.float32)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base, base.parent / "german", 1)


class Direct:
    """An engine in this process as a backend; nothing here embeds."""

    def __init__(self, loop: EngineLoop) -> None:
        self.stream = loop.stream

    async def complete(self, request: ChatRequest, heard: Callable[[Piece], None]) -> ChatResult:
        told = []
        async for piece in self.stream(request):
            heard(piece)
            told.append(piece)
        return whole(told)


@pytest.fixture(scope="module")
def server(base: Path, adapter: Path) -> Iterator[Server]:
    models = (ModelSpec("base"), ModelSpec("german", str(adapter), "german"))
    loop = EngineLoop(Engine(str(base), {"base": None, models[1].engine_name: adapter}))
    backend: Any = Direct(loop)
    with Server(build_api(Service(backend, "tiny", models))) as up:
        yield up
    loop.close()


def items() -> list[Item]:
    return [
        Item(
            f"q{k}",
            "german",
            "survey_heldout",
            ask(CULTURES["german"], f"Is it {k}?", OPTIONS, reverse=reverse),
            OPTIONS,
        )
        for k in range(3)
        for reverse in (False, True)
    ]


def judged(url: str, model: str) -> tuple[AnswerConfig, list[Prediction]]:
    async def through() -> tuple[AnswerConfig, list[Prediction]]:
        endpoint = Endpoint(url, model, None)
        try:
            config = await suited(endpoint, AnswerConfig(model, model))
            told = await asyncio.gather(*(answer(item, endpoint, config) for item in items()))
            return config, [row for rows in told for row in rows]
        finally:
            await endpoint.close()

    return asyncio.run(through())


def check_figures(url: str, model: str, wanted: Sequence[Sequence[float]], *, prefilled: bool) -> None:
    config, rows = judged(url, model)
    assert (config.way, config.prefilled) == (WHOLE, prefilled)
    assert {row.way for row in rows} == {WHOLE}
    for row, shares in zip(rows, wanted, strict=True):
        assert row.probabilities == pytest.approx(shares, abs=1e-4)


def test_a_served_adapter_has_the_figures_of_the_local_door(server: Server, base: Path, adapter: Path) -> None:
    scorer = Scorer(str(base), {"german": open_folder(str(adapter))})
    wanted = scorer.option_shares([Asked(i.messages, i.options, (None, "german")) for i in items()])
    for place, model in enumerate(("base", "german")):
        check_figures(server.url, model, [shares[place] for shares in wanted], prefilled=False)
    assert any(max(map(abs, map(float.__sub__, *shares))) > 0.1 for shares in wanted), "the adapter tells"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make test-vllm)")
def test_a_model_that_vllm_serves_has_the_figures_of_the_local_door(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", size=128)  # it takes no heads of less than 32
    wanted = Scorer(str(base), {}).option_shares([Asked(i.messages, i.options, (None,)) for i in items()])
    port = str(free_port())
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", port,
        "--model", str(base), "--served-model-name", "base", "--dtype", "float32", "--max-num-seqs", "4",
        "--kv-cache-memory-bytes", "100000000", "--enforce-eager",
    ]  # fmt: skip
    own = {"VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(command, env={**os.environ, **own}, cwd=tmp_path)
    try:
        while not healthy(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None
            time.sleep(1)
        check_figures(f"http://127.0.0.1:{port}/v1", "base", [shares for (shares,) in wanted], prefilled=True)
    finally:
        server.terminate()
        server.wait()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_an_answer_that_is_chosen_among_several_is_one_of_them(server: Server) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)

    def said(seed: int, form: Any) -> Any:
        return client.chat.completions.create(
            model="german", messages=[{"role": "user", "content": "Is it?"}], seed=seed, temperature=2.0,
            extra_body={"structured_outputs": form},
        ).choices[0]  # fmt: skip

    found = [said(seed, {"choice": OPTIONS}) for seed in range(8)]
    assert {one.message.content for one in found} <= set(OPTIONS)
    assert len({one.message.content for one in found}) > 1
    assert {one.finish_reason for one in found} == {"stop"}
    wrong: list[Any] = [{"choice": []}, {"regex": "a+"}, {"choice": ["x" * 400]}]
    for form in wrong:
        with pytest.raises(openai.BadRequestError, match="structured_outputs"):
            said(0, form)
