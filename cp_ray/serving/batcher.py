"""Requests that arrive one by one, answered in waves."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult

__all__ = ["Batcher"]

Answer = ChatResult | BadRequest


class Batcher:
    """Collects waiting requests into waves and answers each wave in one thread of its own.

    While a wave is computed the next one gathers. All of it belongs to one event loop.
    """

    def __init__(
        self, generate: Callable[[Sequence[ChatRequest]], list[Answer]], *, max_wave: int = 32, wait_s: float = 0.04
    ) -> None:
        """Answer with `generate`.

        Args:
            generate: answers a wave; runs in a thread.
            max_wave: requests in one wave at most.
            wait_s: a wave starts when nothing has come for so long, in seconds, or after ten times that.
        """
        if max_wave < 1:
            raise ConfigError(f"max_wave: must be at least 1, got {max_wave}")
        self._generate = generate
        self._max_wave = max_wave
        self._wait_s = wait_s
        self._waiting: list[tuple[ChatRequest, asyncio.Future[ChatResult]]] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None

    async def complete(self, request: ChatRequest) -> ChatResult:
        """Answer a request together with those that wait.

        Raises:
            BadRequest: this request is at fault; the others of its wave are answered.
            Exception: what `generate` raised, for every request of that wave and no other.
        """
        future: asyncio.Future[ChatResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            await self._gather()
            # A client that has gone away cancels its future; nothing is computed for it.
            alive = [pair for pair in self._waiting if not pair[1].done()]
            wave, self._waiting = alive[: self._max_wave], alive[self._max_wave :]
            if wave:
                await self._answer(wave)

    async def _gather(self) -> None:
        """Wait for those who come together: clients in step with each other would else be split for good."""
        for _ in range(10):
            before = len(self._waiting)
            await asyncio.sleep(self._wait_s)
            if len(self._waiting) == before or len(self._waiting) >= self._max_wave:
                return

    async def _answer(self, wave: list[tuple[ChatRequest, asyncio.Future[ChatResult]]]) -> None:
        done = asyncio.wrap_future(self._pool.submit(self._generate, [request for request, _ in wave]))
        await asyncio.wait([done])
        error = done.exception()
        answers: Sequence[Answer | BaseException] = [error] * len(wave) if error else done.result()
        for (_, future), answer in zip(wave, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
