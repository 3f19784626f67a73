"""Every paid answer is on disk before anything uses it.

An answer's address is its request (model, messages, sampling). A run that was killed asks again for what was in
flight, and reads the rest here. Failures are never kept as answers.

    <root>/ledger/<writer>.jsonl        one line an answer; every writer has files of its own

On a local disk a writer appends to one file; elsewhere, where nothing can be appended to, each commit is a file.
Calls that are answered while a commit is under way are committed together by the next.
"""

import asyncio
import dataclasses
import json
import os
import posixpath
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from cp_ray.errors import RunFolderError
from cp_ray.llm.call import Completion, Usage

__all__ = ["Ledger", "LedgerTotals", "summary"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    key: str
    step: str
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """From the question to the answer, waiting for its turn included."""
    time: float
    """When it was answered, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """What a step paid for."""

    step: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Of all calls together; they overlap."""


class Ledger:
    """A writer, and a reader of what was there when it was opened. Used in one event loop."""

    def __init__(self, root: str, step: str, model: str) -> None:
        self._filesystem, self._folder = _open(root)
        self._step, self._model = step, model
        self._known = {e.key: _completion(e) for e in _entries(root)}
        self._flights: dict[str, asyncio.Future[Completion]] = {}
        self._name = uuid.uuid4().hex
        self._uncommitted: list[tuple[Entry, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._commits = 0
        self._file: Any = None

    async def get_or_call(self, key: str, call: Callable[[], Awaitable[Completion]]) -> tuple[Completion, bool]:
        """The answer to a request and whether it was paid for now; it is on disk when this returns.

        Requests under the same key at the same time share one call.
        """
        if key in self._known:
            return self._known[key], False
        if key in self._flights:
            return await asyncio.shield(self._flights[key]), False
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._pay(key, call)
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()  # somebody has looked at it, even if nobody shares this flight
            raise
        else:
            flight.set_result(answer)
            return answer, True
        finally:
            del self._flights[key]

    def close(self) -> None:
        """Close its file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _pay(self, key: str, call: Callable[[], Awaitable[Completion]]) -> Completion:
        began = time.monotonic()
        answer = await call()
        if answer.finish_reason not in ("stop", "length", "refusal"):
            return answer
        entry = Entry(
            key=key,
            step=self._step,
            model=self._model,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            seconds=round(time.monotonic() - began, 3),
            time=round(time.time(), 3),
        )
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._uncommitted.append((entry, durable))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await durable
        self._known[key] = answer
        return answer

    async def _commit(self) -> None:
        while self._uncommitted:
            some, self._uncommitted = self._uncommitted, []
            lines = "".join(json.dumps(dataclasses.asdict(e), ensure_ascii=False) + "\n" for e, _ in some)
            try:
                await asyncio.to_thread(self._write, lines.encode())
            except OSError as error:
                for _, durable in some:
                    durable.set_exception(error)
                continue
            for _, durable in some:
                durable.set_result(None)

    def _write(self, data: bytes) -> None:
        if isinstance(self._filesystem, pafs.LocalFileSystem):
            if self._file is None:
                os.makedirs(self._folder, exist_ok=True)
                self._file = open(posixpath.join(self._folder, f"{self._name}.jsonl"), "ab", buffering=0)  # noqa: SIM115
            self._file.write(data)
            os.fsync(self._file.fileno())
            return
        self._filesystem.create_dir(self._folder, recursive=True)
        self._commits += 1
        path = posixpath.join(self._folder, f"{self._name}-{self._commits:06d}.jsonl")
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(data)


def summary(root: str) -> list[LedgerTotals]:
    """What each step paid for, over all of a run folder's life."""
    steps: dict[str, list[Entry]] = defaultdict(list)
    for entry in _entries(root):
        steps[entry.step].append(entry)
    return [
        LedgerTotals(
            step=step,
            calls=len(paid),
            prompt_tokens=sum(e.prompt_tokens for e in paid),
            completion_tokens=sum(e.completion_tokens for e in paid),
            seconds=round(sum(e.seconds for e in paid), 1),
        )
        for step, paid in steps.items()
    ]


def _open(root: str) -> tuple[Any, str]:
    if "://" in root:
        filesystem, path = pafs.FileSystem.from_uri(root)
    else:
        filesystem, path = pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(root))
    return filesystem, posixpath.join(path, "ledger")


def _entries(root: str) -> Iterator[Entry]:
    """All answers, in the order of the files.

    Raises:
        RunFolderError: a line within a file is damaged. The last line of a file may be torn: its writer was killed
            before anything used that answer.
    """
    filesystem, folder = _open(root)
    for info in sorted(filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True)), key=lambda i: i.path):
        with filesystem.open_input_stream(info.path) as stream:
            lines = bytes(stream.read()).split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                yield Entry(**json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
                raise RunFolderError(
                    f"root: {info.path} line {number} is damaged ({error}); remove the line to pay for it again"
                ) from error


def _completion(entry: Entry) -> Completion:
    return Completion(entry.text, entry.finish_reason, Usage(entry.prompt_tokens, entry.completion_tokens))
