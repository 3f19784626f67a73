"""The process that holds the base and its adapters, and whole models beside it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cp_ray.errors import BaseModelError
from cp_ray.serving.chat import BadRequest, ChatRequest, ContextTooLong, Load, Piece
from cp_ray.serving.spec import ServeSpec, Settings
from cp_ray.serving.uses import Uses
from cp_ray.serving.vectors import Vectors

if TYPE_CHECKING:
    from cp_ray.serving.engine import Engine

__all__ = ["Replica", "Wrong", "fetch", "few", "wrong"]

_LONGER = 1.25
"""By so much an answer that nobody reads as it comes has grown when its next piece is told."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with a request; as a value, since Ray would wrap an exception in its traceback."""

    message: str
    too_long: bool = False

    def error(self) -> BadRequest:
        """To be raised where the client is answered."""
        return ContextTooLong(self.message) if self.too_long else BadRequest(self.message)


class Replica:
    """A replica of the engine."""

    def __init__(self, spec: ServeSpec, settings: Settings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"cp_ray-adapters-{os.getpid()}-")
        import torch

        from cp_ray.serving.bases import Bases
        from cp_ray.serving.loop import EngineLoop

        torch.set_num_threads(1)  # of this thread and later ones; the engine's has its own
        self._fetched = 0
        folders = {m.engine_name: self._fetch(m.id, m.adapter) if m.adapter else None for m in spec.models}
        whole = {name: folder for name, folder in folders.items() if folder is not None and is_whole(folder)}
        shared = {name: folder for name, folder in folders.items() if name not in whole}
        self._engine = _engine(spec.base, shared, settings, 1 + len(whole))
        self._whole = {name: _engine(str(path), {name: None}, settings, 1 + len(whole)) for name, path in whole.items()}
        for folder in whole.values():
            shutil.rmtree(folder)  # they are in memory, and do not leave it
        self._loop = EngineLoop(
            Bases(self._engine, self._whole) if whole else self._engine,
            settings.threads or max(1, int(settings.num_cpus)),
        )
        self._uses = Uses(self._drop, folders)
        self._fetching, self._vectors = asyncio.Lock(), Vectors()

    def __del__(self) -> None:
        """Called by Ray Serve before it ends the process, which does no other tidying up."""
        self._folder.cleanup()

    async def stream(self, request: ChatRequest, whole: bool = False) -> AsyncIterator[Piece | Wrong]:
        """Answer a chat piece by piece; `whole`: in few of them, for who waits for all of it."""
        try:
            with self._uses.of(request.model):
                await self._bring(request.model, request.adapter)
                pieces = self._loop.stream(request)
                async with aclosing(few(pieces) if whole else pieces) as told:  # type: ignore[type-var]
                    async for piece in told:
                        yield piece
        except BadRequest as error:
            yield wrong(error)

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length."""
        return await self._vectors.of(texts)

    async def check(self, name: str, adapter: str) -> Wrong | None:
        """Bring an adapter here and see whether it fits the base."""
        try:
            await self._bring(name, adapter)
            if name not in self._whole:
                await asyncio.to_thread(self._engine.adapters.fetch, name)
        except BaseModelError as error:
            if name not in self._uses:
                self._drop(name)
            return Wrong(f"adapter: {error}")
        return None

    async def forget(self, name: str) -> None:
        """Delete the copy of an adapter that is not served any more, once nothing uses it."""
        self._uses.forget(name)

    def check_health(self) -> None:
        """Ray Serve asks every few seconds, and replaces a replica that raises."""
        if not self._loop.alive:
            raise RuntimeError("the engine's thread has ended")

    async def load(self) -> Load:
        """What it is busy with."""
        return self._loop.load

    async def _bring(self, name: str, adapter: str | None) -> None:
        if adapter is None or name in self._whole or self._engine.adapters.knows(name):
            return
        async with self._fetching:
            if not self._engine.adapters.knows(name):
                folder = await asyncio.to_thread(self._fetch, name, adapter)
                if is_whole(folder):
                    shutil.rmtree(folder)
                    raise BaseModelError(f"adapter {name!r}: is a whole model, which is served from the start or not")
                self._engine.adapters.know(name, folder)

    def _drop(self, name: str) -> None:
        if (folder := self._engine.adapters.forget(name)) is not None:
            shutil.rmtree(folder)

    def _fetch(self, name: str, uri: str) -> Path:
        self._fetched += 1
        return fetch(name, uri, Path(self._folder.name) / str(self._fetched))


def is_whole(folder: Path) -> bool:
    """Whether a model with all its weights lies there, and no adapter."""
    return (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()


def _engine(base: str, adapters: Mapping[str, Path | None], settings: Settings, engines: int) -> "Engine":
    """One of so many of a replica."""
    from cp_ray.serving.engine import Engine

    return Engine(
        base,
        adapters,
        device="cuda" if settings.num_gpus else "cpu",
        dtype=settings.dtype,
        prefix_bytes=settings.prefix_mib * 2**20 // engines,
        max_rows=settings.max_rows,
        max_tokens=settings.max_tokens,
        max_adapters=settings.max_adapters,
    )


async def few(pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    """An answer in fewer pieces, each told once it is a quarter longer: so it is known about how far it is."""
    held: list[Piece] = []
    told = 0
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            held.append(piece)
            if piece.finish_reason or piece.completion_tokens >= _LONGER * told:
                logprobs = tuple(token for one in held for token in one.logprobs)
                yield replace(piece, text="".join(one.text for one in held), logprobs=logprobs)
                held, told = [], piece.completion_tokens


def fetch(name: str, uri: str, target: Path) -> Path:
    """Copy an adapter's folder from any pyarrow filesystem to `target`.

    Raises:
        BaseModelError: it cannot be read.
    """
    import pyarrow as pa
    from pyarrow import fs

    target.mkdir()
    try:
        source, path = fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), str(Path(uri).resolve()))
        fs.copy_files(path, str(target), source_filesystem=source, destination_filesystem=fs.LocalFileSystem())
    except (OSError, pa.ArrowException) as error:
        shutil.rmtree(target)
        raise BaseModelError(f"adapter {name!r}: cannot read {uri} ({error}); give a PEFT folder") from error
    return target


def wrong(error: BadRequest) -> Wrong:
    """An error as a value."""
    return Wrong(str(error), isinstance(error, ContextTooLong))
