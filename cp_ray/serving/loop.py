"""The engine's thread, and how requests of an event loop come to it and their answers back."""

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import torch

from cp_ray.serving.chat import ChatRequest, Load, Piece

if TYPE_CHECKING:
    from cp_ray.serving.bases import Bases
    from cp_ray.serving.engine import Engine
    from cp_ray.serving.rows import Row

__all__ = ["EngineLoop"]

_END_S = 10.0
_log = logging.getLogger("cp_ray.serving")


class EngineLoop:
    """Steps the engine while there is work. All of it but the thread belongs to one event loop."""

    def __init__(self, engine: "Engine | Bases", threads: int | None = None) -> None:
        """Start the thread; it lives as long as the process.

        Args:
            engine: to be stepped.
            threads: CPU threads that compute a step. All others of this process compute alone from now on: as soon as
                a second one has helpers, OpenMP lets no helper wait awake, and a step takes twice as long. None leaves
                torch's choice to all.
        """
        self._engine = engine
        self._inbox: queue.SimpleQueue[tuple[str, Row] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(threads,), name="engine", daemon=True)
        self._started = threading.Event()
        self._thread.start()
        if threads is not None:
            self._started.wait()
            torch.set_num_threads(1)
        atexit.register(self.close)  # a thread that is in torch when Python ends takes the process down

    def close(self) -> None:
        """End the thread, after the step that it is in."""
        self._inbox.put(None)
        self._thread.join(timeout=_END_S)

    @property
    def alive(self) -> bool:
        """Whether there is a thread to answer."""
        return self._thread.is_alive()

    @property
    def load(self) -> Load:
        """What the engine is busy with; may be a step old."""
        return self._engine.load

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """Answer a request piece by piece; once the iterator is left, nothing more is computed for it.

        Raises:
            BadRequest: this request is at fault.
            Exception: what the engine's step raised, for every request that it had then.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        row = await asyncio.to_thread(self._engine.prepare, request)

        def deliver(piece: Piece | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has been closed: nobody waits
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        row.deliver = deliver
        self._inbox.put(("add", row))
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            if not row.finish_reason:
                self._inbox.put(("cancel", row))

    def _run(self, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
            torch.get_num_threads()  # torch sets a thread's own number when it is first needed, and not again
        self._started.set()
        busy = False
        while self._take(wait=not busy):
            try:
                busy = self._engine.step()
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait for an answer
                _log.exception("a step failed; its requests fail with it")
                self._engine.fail(error)
                busy = True  # with what another engine of several has to do

    def _take(self, *, wait: bool) -> bool:
        """Hand the engine what has come; False once the thread is to end."""
        while wait or not self._inbox.empty():
            told = self._inbox.get()
            if told is None:
                return False
            what, row = told
            (self._engine.add if what == "add" else self._engine.cancel)(row)
            wait = False
        return True
