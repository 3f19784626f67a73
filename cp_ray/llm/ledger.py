"""Every paid answer is on disk before anything uses it.

An answer's address is its request (model, messages, sampling). A run that was killed asks again for what was in
flight, and reads the rest here. Failures are never kept as answers; they are counted, with what was paid for them.

    <root>/ledger/<writer>.jsonl        one line an answer; every writer has files of its own

On a local disk a writer appends to one file; elsewhere, where nothing can be appended to, each commit is a file, and
they are joined at the end of a step. Calls that are answered while a commit is under way are committed together by the
next. Whoever opens the ledger reads where each answer lies, and the answer itself when it is asked for.
"""

import asyncio
import functools
import json
import os
import posixpath
import re
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.fs as pafs

from cp_ray.errors import RunFolderError
from cp_ray.llm.call import ANSWERED, Completion, Token, Usage
from cp_ray.llm.ledger_index import Index

__all__ = ["Entry", "Ledger", "LedgerTotals", "entries", "join_parts", "summary"]

_CHUNK = 2**22
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_GATHER_S = 0.005
"""A commit waits so long for further answers: a write and an fsync cost the same for one as for ten."""
_PART = re.compile(r"-\d{6}\.jsonl$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer of the ledger."""

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
    usd: float = 0.0
    """What it cost by the price known then; 0 where none was known."""
    logprobs: list[Any] | None = None
    """Of each token: text, log-probability, the likeliest ones with theirs; None where they were not told."""


@dataclass(frozen=True, slots=True)
class Failures:
    """A line of the ledger that counts attempts that failed."""

    step: str
    model: str
    kind: str
    count: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    """What was paid for them all the same, as for an answer that the provider withheld."""


@dataclass(slots=True)
class LedgerTotals:
    """What a step paid a model for, and what failed."""

    step: str
    model: str
    calls: int = 0
    """Those that brought an answer; money and tokens are of the others as well, where they were paid for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """Of all calls together; they overlap."""
    failures: Counter[str] = field(default_factory=Counter)
    """Attempts that came to nothing, by kind; most of them were made again."""


class Ledger:
    """A writer, and a reader of what was there when it was opened. Used in one event loop."""

    def __init__(self, root: str, step: str, model: str) -> None:
        """Open it.

        Raises:
            RunFolderError: a line within a file is damaged.
        """
        self._filesystem, self._folder = _open(root)
        self._step, self._model = step, model
        self._index = Index(_local_copies(self._filesystem, self._folder))
        self._flights: dict[str, asyncio.Future[Completion]] = {}
        self._name = uuid.uuid4().hex
        self._uncommitted: list[tuple[str | None, bytes, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._failures: Counter[str] = Counter()
        self._parts = 0
        self._file: Any = None
        self._length = 0

    async def get_or_call(self, key: str, call: Callable[[], Awaitable[Completion]]) -> tuple[Completion, bool]:
        """The answer to a request and whether it was paid for now; it is on disk when this returns.

        Requests under the same key at the same time share one call.
        """
        known = self._index.find(key)
        if known is not None:
            return _completion(known), False
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

    def failed(self, kind: str) -> None:
        """Count an attempt that came to nothing; written with the next answers."""
        self._failures[kind] += 1

    def flush(self) -> None:
        """Write down the failures that are counted."""
        if self._failures:
            self._append(self._failure_lines())

    def close(self) -> None:
        """Write what is counted, and close its files."""
        self.flush()
        self._index.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _pay(self, key: str, call: Callable[[], Awaitable[Completion]]) -> Completion:
        began = time.monotonic()
        answer = await call()
        answered = answer.finish_reason in ANSWERED
        if not answered and answer.usage == Usage(0, 0):
            return answer
        paid = {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "seconds": round(time.monotonic() - began, 3),
            "time": round(time.time(), 3),
            "usd": round(answer.usd, 9),
        }
        of = {"step": self._step, "model": answer.model or self._model}
        if answered:
            told = {} if answer.logprobs is None else {"logprobs": list(map(_plain, answer.logprobs))}
            ended = {"text": answer.text, "finish_reason": answer.finish_reason}
            await self._keep(key, {"key": key, **of, **ended, **paid, **told})
        else:
            await self._keep(None, {"failed": answer.finish_reason, **of, "count": 1, "key": key, **paid})
        return answer

    async def _keep(self, key: str | None, fields: dict[str, Any]) -> None:
        """Make a line durable, and an answer to be found, which has a key."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._uncommitted.append((key, f"{_ENCODE(fields)}\n".encode(), durable))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await durable

    async def _commit(self) -> None:
        while self._uncommitted:
            await asyncio.sleep(_GATHER_S)
            some, self._uncommitted = self._uncommitted, []
            lines = [line for _, line, _ in some] + ([self._failure_lines()] if self._failures else [])
            try:
                offset = await asyncio.to_thread(self._append, b"".join(lines))
            except OSError as error:
                for _, _, durable in some:
                    if not durable.done():  # else who waited has gone
                        durable.set_exception(error)
                continue
            for key, line, durable in some:
                if key is not None:
                    self._index.add(key, self._file.fileno(), offset, len(line))
                offset += len(line)
                if not durable.done():
                    durable.set_result(None)

    def _failure_lines(self) -> bytes:
        counted, self._failures = self._failures, Counter()
        return b"".join(
            json.dumps({"failed": kind, "step": self._step, "model": self._model, "count": n}).encode() + b"\n"
            for kind, n in counted.items()
        )

    def _append(self, data: bytes) -> int:
        """Make it durable; gives where it begins in the file that is read from."""
        local = isinstance(self._filesystem, pafs.LocalFileSystem)
        if self._file is None:
            self._file = self._create() if local else tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115
        if not local:
            self._parts += 1
            self._put(f"{self._name}-{self._parts:06d}.jsonl", data)
        self._write(data, durable=local)
        offset, self._length = self._length, self._length + len(data)
        return offset

    def _write(self, data: bytes, *, durable: bool) -> None:
        """All of it or nothing: the next line would be joined to one that is torn.

        One write takes what there is room for, where a disk is nearly full.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            if durable:
                os.fsync(self._file.fileno())
        except OSError:
            self._file.seek(self._length)
            self._file.truncate()
            raise

    def _create(self) -> Any:
        os.makedirs(self._folder, exist_ok=True)
        return open(posixpath.join(self._folder, f"{self._name}.jsonl"), "a+b", buffering=0)

    def _put(self, name: str, data: bytes) -> None:
        self._filesystem.create_dir(self._folder, recursive=True)
        with self._filesystem.open_output_stream(posixpath.join(self._folder, name)) as stream:
            stream.write(data)


def join_parts(root: str) -> None:
    """Join what was written in parts, where a file cannot be appended to. Nobody may be writing.

    First the whole, then the parts away: cut off in between, every answer is there, some of them twice.
    """
    filesystem, folder = _open(root)
    parts = [path for path in _paths(filesystem, folder) if _PART.search(path)]
    if len(parts) < 2:
        return
    with filesystem.open_output_stream(posixpath.join(folder, f"{uuid.uuid4().hex}.jsonl")) as whole:
        for path in parts:
            with filesystem.open_input_stream(path) as stream:
                whole.write(stream.read())
    for path in parts:
        filesystem.delete_file(path)


def summary(root: str) -> list[LedgerTotals]:
    """What each step paid each model for, over all of a run folder's life."""
    found: dict[tuple[str, str], LedgerTotals] = {}
    seen: set[int] = set()
    for line, written in _lines(root):
        # One that was joined may stand twice, to the letter. An answer that two workers paid for at the same time has
        # lines of its own.
        if b'"key": "' in written:
            if (copy := hash(written)) in seen:
                continue
            seen.add(copy)
        of = found.setdefault((line.step, line.model), LedgerTotals(line.step, line.model))
        of.prompt_tokens += line.prompt_tokens
        of.completion_tokens += line.completion_tokens
        of.usd += line.usd
        if isinstance(line, Failures):
            of.failures[line.kind] += line.count
        else:
            of.calls += 1
            of.seconds += line.seconds
    return list(found.values())


def entries(root: str) -> Iterator[Entry]:
    """All answers, in the order of the files.

    Raises:
        RunFolderError: a line within a file is damaged.
    """
    return (line for line, _ in _lines(root) if isinstance(line, Entry))


def _open(root: str) -> tuple[Any, str]:
    if "://" in root:
        filesystem, path = pafs.FileSystem.from_uri(root)
    else:
        filesystem, path = pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(root))
    return filesystem, posixpath.join(path, "ledger")


def _paths(filesystem: Any, folder: str) -> list[str]:
    return sorted(i.path for i in filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))


def _local_copies(filesystem: Any, folder: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each file of the ledger by name, and what opens it for reading; those from elsewhere in one temporary file."""
    paths = _paths(filesystem, folder)
    if isinstance(filesystem, pafs.LocalFileSystem):
        for path in paths:
            yield path, functools.partial(open, path, "rb", buffering=0)
    elif paths:
        copy = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115
        for path in paths:
            with filesystem.open_input_stream(path) as stream:
                data = bytes(stream.read())
            copy.write(data[: data.rfind(b"\n") + 1])
        yield folder, lambda: copy


def _lines(root: str) -> Iterator[tuple[Entry | Failures, bytes]]:
    """All lines, and as they are written.

    The last of a file may be torn: its writer was killed before anything used that answer.
    """
    filesystem, folder = _open(root)
    for path in _paths(filesystem, folder):
        with filesystem.open_input_stream(path) as stream:
            for number, line in enumerate(_whole_lines(stream), 1):
                try:
                    found = json.loads(line)
                    yield _failures(found) if "failed" in found else Entry(**found), line
                except (ValueError, TypeError, KeyError) as error:
                    raise RunFolderError(
                        f"root: {path} line {number} is damaged ({error}); remove the line to pay for it again"
                    ) from error


def _whole_lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while data := stream.read(_CHUNK):
        *lines, rest = (rest + bytes(data)).split(b"\n")
        yield from lines


def _failures(found: dict[str, Any]) -> Failures:
    paid = {name: found[name] for name in ("prompt_tokens", "completion_tokens", "usd") if name in found}
    return Failures(found["step"], found["model"], found["failed"], found["count"], **paid)


def _completion(found: dict[str, Any]) -> Completion:
    usage = Usage(found["prompt_tokens"], found["completion_tokens"])
    told = found.get("logprobs")
    tokens = None if told is None else tuple(Token(text, own, tuple(map(tuple, top))) for text, own, top in told)
    return Completion(found["text"], found["finish_reason"], usage, found.get("usd", 0.0), found["model"], tokens)


def _plain(token: Token) -> list[Any]:
    """A token as JSON."""
    return [token.text, token.logprob, token.top]
