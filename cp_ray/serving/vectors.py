"""Sentence vectors beside the engine: in a thread of their own, and no more of them once nobody waits."""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cp_ray.embedding import Embedder

__all__ = ["Vectors"]

_BATCH = 16
"""Texts computed without a break: so few that nobody else waits long, and that what is given up soon ends."""


class Vectors:
    """Makes them; the threads that prepare chats are left alone. Those who ask at once get a batch each in turn."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "vectors")

    async def of(self, texts: list[str]) -> list[list[float]]:
        """Of unit length, in the order of the texts."""
        loop = asyncio.get_running_loop()
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))  # those computed together are about as long
        found: dict[int, list[float]] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            vectors = await loop.run_in_executor(self._thread, self._encode, [texts[k] for k in batch])
            found.update(zip(batch, vectors, strict=True))
        return [found[k] for k in range(len(texts))]

    def _encode(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.encode(texts).tolist()
        return vectors

    @functools.cached_property
    def _embedder(self) -> "Embedder":
        from cp_ray.embedding import Embedder

        return Embedder(device="cpu")  # what GPU there is belongs to the engine, or to another replica
