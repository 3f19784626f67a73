import asyncio
import threading
import time
from typing import Any

import pytest

from cp_ray.serving.vectors import Vectors


class Encoder:
    """Takes its time; notes what it was given, and in which threads."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def __call__(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(texts)
        self.threads.add(threading.current_thread().name)
        time.sleep(0.02)
        return [[float(len(text))] for text in texts]


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    made = Encoder()
    monkeypatch.setattr(Vectors, "_encode", lambda _, texts: made(texts))
    return made


def test_vectors_come_in_the_order_of_the_texts(encoder: Encoder) -> None:
    texts = ["x" * (k * 7 % 50) for k in range(50)]
    assert asyncio.run(Vectors().of(texts)) == [[float(len(text))] for text in texts]
    assert asyncio.run(Vectors().of([])) == []
    assert max(map(len, encoder.batches)) <= 16


def test_what_nobody_waits_for_is_not_computed_and_chats_have_their_threads(encoder: Encoder) -> None:
    async def run() -> None:
        vectors = Vectors()
        floods = [asyncio.ensure_future(vectors.of([f"text {k}"] * 640)) for k in range(40)]
        while not encoder.batches:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        await asyncio.to_thread(time.sleep, 0)
        assert time.monotonic() - began < 0.5, "the threads that prepare chats are free"
        for flood in floods:
            flood.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        assert await vectors.of(["one"]) == [[3.0]]

    asyncio.run(run())
    assert encoder.batches[-1] == ["one"]
    assert len(encoder.batches) < 10
    assert len(encoder.threads) == 1


def test_one_text_does_not_wait_for_all_of_a_list(encoder: Encoder) -> None:
    async def run() -> None:
        vectors = Vectors()
        flood = asyncio.ensure_future(vectors.of(["text"] * 640))
        await asyncio.sleep(0)
        await vectors.of(["one"])
        assert not flood.done()
        flood.cancel()

    asyncio.run(run())
    assert encoder.batches.index(["one"]) <= 2


def test_they_are_the_embedder_s_own() -> None:
    import numpy as np

    texts = ["A town by the sea.", "A village on the coast, " * 5, "Seven"]
    made: Any = np.array(asyncio.run(Vectors().of(texts)))
    assert made.shape == (3, 384)
    assert np.linalg.norm(made, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert made[0] @ made[1] > made[0] @ made[2]
