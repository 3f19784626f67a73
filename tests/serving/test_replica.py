import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch

from cp_ray.errors import BaseModelError
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult, ModelSpec, Piece, TokenLogprob, whole
from cp_ray.serving.engine import Engine
from cp_ray.serving.replica import Replica, Wrong, few
from cp_ray.serving.spec import ServeSpec, Settings
from cp_ray.serving.versions import Versions
from tests.tiny import make_adapter, make_base


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    base = make_base(tmp_path_factory.mktemp("base"))
    made = Replica(ServeSpec(str(base), (ModelSpec("base"),)), Settings())
    yield made
    made._loop.close()
    made._folder.cleanup()


def ask(model: str, adapter: Path, max_tokens: int = 2) -> ChatRequest:
    return ChatRequest(model, (Message("user", "hi"),), max_tokens=max_tokens, adapter=str(adapter))


async def complete(replica: Replica, request: ChatRequest) -> ChatResult | Wrong:
    told = [piece async for piece in replica.stream(request, whole=True)]
    return told[-1] if isinstance(told[-1], Wrong) else whole([p for p in told if not isinstance(p, Wrong)])


def copies_of(replica: Replica) -> set[Path]:
    return set(Path(replica._folder.name).iterdir())


def test_an_adapter_that_is_not_there_is_whoever_offers_it_s_fault_and_not_whoever_asks_s(
    replica: Replica, tmp_path: Path
) -> None:
    offered = asyncio.run(replica.check("german@2", str(tmp_path / "nowhere")))
    assert isinstance(offered, Wrong)
    assert "cannot read" in offered.message
    with pytest.raises(BaseModelError, match="cannot read"):
        asyncio.run(complete(replica, ask("german@2", tmp_path / "nowhere")))
    assert list(Path(replica._folder.name).iterdir()) == []


def test_an_adapter_that_does_not_fit_is_told_and_forgotten(replica: Replica, tmp_path: Path) -> None:
    wide, copies = make_base(tmp_path / "wide", layers=3), copies_of(replica)
    offered = asyncio.run(replica.check("german@3", str(make_adapter(wide, tmp_path / "three", 1))))
    assert isinstance(offered, Wrong)
    assert "made for another" in offered.message
    assert not replica._engine.adapters.knows("german@3")
    assert isinstance(asyncio.run(replica.check("german@3", str(wide))), Wrong)
    assert copies_of(replica) == copies


def test_an_adapter_comes_with_the_first_request_for_it(replica: Replica, tmp_path: Path) -> None:
    adapter = make_adapter(Path(replica._engine._model.name_or_path), tmp_path / "two", 1)
    before = replica._fetched
    answers = [asyncio.run(complete(replica, ask("german@4", adapter))) for _ in range(2)]
    assert not isinstance(answers[0], Wrong)
    assert answers[0].completion_tokens
    assert replica._fetched == before + 1


def test_the_copy_of_an_adapter_that_is_not_served_any_more_goes_with_the_last_answer(
    replica: Replica, tmp_path: Path
) -> None:
    adapter, copies = make_adapter(Path(replica._engine._model.name_or_path), tmp_path / "six", 1), copies_of(replica)

    async def run() -> None:
        pieces = replica.stream(ask("german@6", adapter, 40))
        await anext(pieces)
        await replica.forget("german@6")
        assert len(copies_of(replica) - copies) == 1
        assert [piece async for piece in pieces][-1].finish_reason  # type: ignore[union-attr]
        assert copies_of(replica) == copies
        assert isinstance(await complete(replica, ask("german@6", adapter)), ChatResult), "it was on its way"
        assert copies_of(replica) == copies

    asyncio.run(run())


def test_what_is_configured_is_kept_whatever_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    model = ModelSpec("german", str(make_adapter(base, tmp_path / "one", 1)))
    replica = Replica(ServeSpec(str(base), (model,)), Settings())
    try:
        asyncio.run(replica.forget(model.engine_name))
        assert len(copies_of(replica)) == 1
    finally:
        replica._loop.close()
        replica._folder.cleanup()


def test_after_a_new_training_both_adapters_answer_each_under_its_own_name(tmp_path: Path) -> None:
    base, file = make_base(tmp_path / "base"), tmp_path / "versions.json"
    folders = {name: make_adapter(base, tmp_path / name / "german", seed) for seed, name in enumerate(("a", "b"))}
    a, b = (ModelSpec("german", str(folder)) for folder in folders.values())
    before = Versions((a,), file)
    before.offer("german", before.candidate("german", "2", "elsewhere"), 1)
    before.roll_back("german")
    versions = Versions((b,), file)
    replica = Replica(ServeSpec(str(base), (b,)), Settings(dtype="float32"))

    def answer() -> str:
        release = versions.of("german").stable
        request = ChatRequest(
            release.name, (Message("user", "hi"),), temperature=0, max_tokens=12, adapter=release.adapter
        )
        made = asyncio.run(complete(replica, request))
        assert isinstance(made, ChatResult)
        return made.text

    try:
        told = [answer()]
        versions.roll_back("german")
        told.append(answer())
    finally:
        replica._loop.close()
        replica._folder.cleanup()
    alone = Engine(str(base), dict(folders), dtype="float32")
    requests = [ChatRequest(name, (Message("user", "hi"),), temperature=0, max_tokens=12) for name in ("b", "a")]
    assert told == [one.text for one in alone.generate(requests) if isinstance(one, ChatResult)]
    assert told[0] != told[1]


def test_whole_models_answer_beside_adapters_as_they_do_alone(tmp_path: Path) -> None:
    base, german = make_base(tmp_path / "base"), make_base(tmp_path / "german", layers=3, seed=1)
    arabic = make_adapter(base, tmp_path / "arabic", 2)
    models = (ModelSpec("german", str(german)), ModelSpec("arabic", str(arabic)), ModelSpec("base"))
    replica = Replica(ServeSpec(str(base), models), Settings(dtype="float32"))

    def asked(name: str, adapter: str | None = None) -> ChatRequest:
        return ChatRequest(name, (Message("user", "hi"),), temperature=0, max_tokens=12, adapter=adapter)

    async def together() -> list[str]:
        made = await asyncio.gather(
            *(complete(replica, asked(model.engine_name, model.adapter)) for model in models for _ in range(2))
        )
        return [one.text for one in made if not isinstance(one, Wrong)][::2]

    try:
        engines = [
            Engine(str(german), {"german": None}, dtype="float32"),
            *2 * [Engine(str(base), {"arabic": arabic, "base": None}, dtype="float32")],
        ]
        alone = [engine.generate([asked(model.id)])[0] for engine, model in zip(engines, models, strict=True)]
        assert asyncio.run(together()) == [one.text for one in alone if isinstance(one, ChatResult)]
        assert len({one.text for one in alone if isinstance(one, ChatResult)}) == 3
        offered = asyncio.run(replica.check("german@2", str(german)))
        assert asyncio.run(replica.check(models[0].engine_name, str(german))) is None
        assert isinstance(offered, Wrong)
        assert "is a whole model, which is served from the start or not" in offered.message
    finally:
        replica._loop.close()
        replica._folder.cleanup()


def test_a_step_that_fails_is_its_own_model_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, german = make_base(tmp_path / "base"), make_base(tmp_path / "german", seed=1)
    replica = Replica(ServeSpec(str(base), (ModelSpec("german", str(german)), ModelSpec("base"))), Settings())
    name = ModelSpec("german", str(german)).engine_name
    own, step = replica._whole[name], replica._whole[name].step

    def broken() -> bool:
        if own._rows or own._waiting:
            raise RuntimeError("out of memory")
        return step()

    async def together() -> list[object]:
        requests = [ChatRequest(model, (Message("user", "hi"),), max_tokens=30) for model in ("base", name, "base")]
        return list(await asyncio.gather(*(complete(replica, r) for r in requests), return_exceptions=True))

    monkeypatch.setattr(own, "step", broken)
    try:
        first, failed, last = asyncio.run(together())
        assert isinstance(failed, RuntimeError)
        assert isinstance(first, ChatResult)
        assert isinstance(last, ChatResult)
        assert first.completion_tokens
        monkeypatch.undo()
        assert not any(isinstance(one, Exception) for one in asyncio.run(together())), "it goes on"
    finally:
        replica._loop.close()
        replica._folder.cleanup()


class Encoder:
    """An embedder that takes a tenth of a second for each text."""

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self) -> "Encoder":
        return self

    def encode(self, texts: list[str]) -> torch.Tensor:
        self.begun += len(texts)
        time.sleep(0.1 * len(texts))
        return torch.zeros(len(texts), 2)


def test_embeddings_that_nobody_waits_for_end_and_keep_no_chat_waiting(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder()
    monkeypatch.setattr("cp_ray.embedding.Embedder", encoder)

    async def run() -> None:
        for _ in range(40):
            asked = asyncio.ensure_future(replica.embed(["text"] * 64))
            await asyncio.sleep(0.01)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        async with asyncio.timeout(3):
            await asyncio.to_thread(int)  # as a chat is prepared

    asyncio.run(run())
    assert encoder.begun < 64


def test_a_replica_whose_engine_has_ended_is_not_healthy(replica: Replica) -> None:
    replica.check_health()
    replica._loop.close()
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()


def test_who_waits_for_a_whole_answer_is_told_of_it_now_and_then() -> None:
    left = []

    async def drawn(last: int) -> AsyncIterator[Piece]:
        try:
            for k in range(1, last + 1):
                yield Piece(
                    chr(96 + k % 26), "length" if k == last else "", 5, k, logprobs=(TokenLogprob(str(k), 0.0),)
                )
        finally:
            left.append(last)

    async def run() -> tuple[list[Piece], Piece]:
        all_of_it = [piece async for piece in drawn(1000)]
        told = [piece async for piece in few(drawn(1000))]
        assert whole(told) == whole(all_of_it)
        async with aclosing(few(drawn(2000))) as pieces:  # type: ignore[type-var]
            return told, await anext(pieces)

    told, first = asyncio.run(run())
    assert first.completion_tokens == 1
    assert left[-1] == 2000, "who leaves ends the work"
    assert len(told) < 40
    counts = [piece.completion_tokens for piece in told]
    assert all(after <= 1.25 * before + 1 for before, after in itertools.pairwise(counts))
