"""A model behind its provider's half-price batch interface, as the same kind of function as any other model.

Hundreds of dialogues wait in one event loop, each for its next answer. When no more calls come, those that were
gathered go out as one batch: one batch for each turn of the dialogues. Answers may take the provider up to a day.

Nothing is paid for twice. A batch is on disk before it is created (`cp_ray.llm.batch_records`), so that a restarted
run attaches to what is under way; and where nobody knows whether a batch was created, it is looked for at the
provider's before it is created again.
"""

import asyncio
import dataclasses
import functools
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cp_ray.errors import ConfigError, TeacherError
from cp_ray.llm.batch_provider import ATTEMPTS, BatchProvider, Refused, Transient, gave_up, no_answer, patiently, pause
from cp_ray.llm.batch_records import BatchRecords, Sent
from cp_ray.llm.call import GAVE_UP, Completion, Sampling, request_key
from cp_ray.records import Message

__all__ = ["BatchEndpoint", "ProviderName"]

ProviderName = Literal["openai", "anthropic"]

_LONGEST_POLLS = 12
"""How many times the first interval between polls the last ones are."""


@dataclass(eq=False, slots=True)
class _Call:
    """Somebody waits for an answer."""

    key: str
    messages: Sequence[Message]
    sampling: Sampling
    answer: "asyncio.Future[Completion]"
    tries: int = field(default=0)
    """In how many batches of this process it has been."""


class BatchEndpoint:
    """A `Generate` over a provider's batches. Made and used in one event loop.

    Args:
        provider: whose interface it is.
        url: up to and including `/v1`.
        model: one that the provider has.
        key: the API key.
        root: run folder, a path or URI.
        quiet_s: how long no call may have come before the gathered ones go out.
        poll_s: between the first polls of a batch; the later ones are up to twelve times as far apart.
        largest: requests a batch; None takes as many as the provider does.
        largest_bytes: of a batch; None takes as many as the provider does.
        tries: how often a request is sent that comes back without an answer.
        settle_s: how long a provider may take to list a batch that was created.
    """

    def __init__(
        self,
        provider: ProviderName,
        url: str,
        model: str,
        key: str | None,
        root: str,
        *,
        quiet_s: float = 2.0,
        poll_s: float = 5.0,
        largest: int | None = None,
        largest_bytes: int | None = None,
        tries: int = 3,
        settle_s: float = 30.0,
    ) -> None:
        self._provider = _provider(provider, url, model, key)
        self._name, self._url, self._model = provider, url.rstrip("/"), model
        self._records = BatchRecords(root)
        self._quiet_s, self._poll_s, self._tries, self._settle_s = quiet_s, poll_s, tries, settle_s
        self._most = min(largest or self._provider.most, self._provider.most)
        self._most_bytes = min(largest_bytes or self._provider.most_bytes, self._provider.most_bytes)
        self._calls: dict[str, _Call] = {}
        self._gathered: list[_Call] = []
        self._quiet: asyncio.TimerHandle | None = None
        self._standing: dict[str, Sent] | None = None
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat, when its batch is done.

        Raises:
            TeacherError: the teacher cannot be used, or still fails after all attempts.
            RunFolderError: the record of a batch is damaged.
        """
        key = request_key(self._model, messages, sampling)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(key, messages, sampling, asyncio.get_running_loop().create_future())
            self._gather([call])
        return await asyncio.shield(call.answer)  # one caller that goes away takes nothing from the others

    async def close(self) -> None:
        """Stop waiting and close its connections; batches that are under way go on at the provider's."""
        if self._quiet is not None:
            self._quiet.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for call in self._calls.values():
            call.answer.cancel()
        await self._provider.close()

    # From calls to batches

    def _gather(self, calls: Iterable[_Call]) -> None:
        self._gathered.extend(calls)
        if self._quiet is not None:
            self._quiet.cancel()
        if len(self._gathered) >= self._most:
            self._send_out()
        else:
            self._quiet = asyncio.get_running_loop().call_later(self._quiet_s, self._send_out)

    def _send_out(self) -> None:
        calls, self._gathered, self._quiet = self._gathered, [], None
        if calls:
            self._start(self._sort(calls), calls)

    async def _sort(self, calls: Sequence[_Call]) -> None:
        """Attach to the batches that calls stand in already; make batches of the others."""
        standing = await self._read()
        attached: dict[str, list[_Call]] = defaultdict(list)
        for call in calls:
            if call.key in standing:
                attached[standing[call.key].digest].append(call)
        for some in attached.values():
            self._start(self._attach(standing[some[0].key], some), some)
        for fresh, lines in self._cut([call for call in calls if call.key not in standing]):
            self._start(self._send(fresh, lines), fresh)

    def _cut(self, calls: Sequence[_Call]) -> Iterator[tuple[list[_Call], list[bytes]]]:
        """Calls as batches that the provider takes."""
        some: list[_Call] = []
        lines: list[bytes] = []
        size = 0
        for call in calls:
            line = self._provider.line(call.key, call.messages, call.sampling)
            if some and (len(some) == self._most or size + len(line) + 1 > self._most_bytes):
                yield some, lines
                some, lines, size = [], [], 0
            some.append(call)
            lines.append(line)
            size += len(line) + 1
        if some:
            yield some, lines

    async def _read(self) -> dict[str, Sent]:
        """In which batch each request stands, the last one if in several."""
        async with self._reading:
            if self._standing is None:
                all_sent = await asyncio.to_thread(self._records.read)
                mine = (s for s in all_sent if (s.provider, s.url, s.model) == (self._name, self._url, self._model))
                self._standing = {key: sent for sent in mine for key in sent.keys}
            return self._standing

    async def _note(self, sent: Sent) -> None:
        standing = await self._read()
        await asyncio.to_thread(self._records.write, sent)
        standing.update(dict.fromkeys(sent.keys, sent))

    async def _forget(self, call: _Call) -> None:
        """Its batch has no answer to it; the next one that it is in will."""
        (await self._read()).pop(call.key, None)

    # One batch

    async def _send(self, calls: Sequence[_Call], lines: Sequence[bytes]) -> None:
        keys = tuple(call.key for call in calls)
        sent = Sent(uuid.uuid4().hex, self._name, self._url, self._model, keys, time.time())
        await self._note(sent)
        try:
            id = await self._create(sent, lines)
        except Refused as refusal:
            self._refused(refusal, calls, lines)
            return
        for call in calls:
            call.tries += 1
        await self._collect(dataclasses.replace(sent, id=id), calls)

    def _refused(self, refusal: Refused, calls: Sequence[_Call], lines: Sequence[bytes]) -> None:
        """What to do about a batch that is not taken; single requests are only looked at after it is."""
        if refusal.status in (404, 405):
            raise TeacherError(
                f"teacher-url: {self._url} has no batch interface; correct --teacher-url or ask without batches"
            ) from refusal
        if refusal.status != 413:
            raise TeacherError(f"teacher-url: {self._url} does not take the batch ({refusal})") from refusal
        if len(calls) == 1:
            self._resolve(calls[0], no_answer("refused with status 413"))
            return
        half = len(calls) // 2
        for part in (slice(half), slice(half, None)):
            self._start(self._send(calls[part], lines[part]), calls[part])

    async def _create(self, sent: Sent, lines: Sequence[bytes]) -> str:
        """A new batch's id. A try that may have had its effect is looked into before the next one."""
        attempt = 1
        while True:
            try:
                id = await self._provider.create(sent.digest, lines)
            except Transient as failure:
                if attempt == ATTEMPTS:
                    raise gave_up(failure, self._url) from failure
                failed = time.time()
                await pause(failure, attempt)
                found = await self._look_for(sent, failed + self._settle_s) if failure.unsure else None
            else:
                found = id
            if found is not None:
                await self._note(dataclasses.replace(sent, id=found))
                return found
            attempt += 1

    async def _attach(self, sent: Sent, calls: Sequence[_Call]) -> None:
        """Wait for a batch that stands in the records."""
        if sent.id is None:
            id = await self._look_for(sent, sent.time + self._settle_s)
            if id is None:
                for call in calls:
                    await self._forget(call)
                self._gather(calls)
                return
            sent = dataclasses.replace(sent, id=id)
            await self._note(sent)
        await self._collect(sent, calls)

    async def _look_for(self, sent: Sent, settled: float) -> str | None:
        """The id of a batch that may have been created; None is believed only when its list has settled."""
        while True:
            taken = {s.id for s in await asyncio.to_thread(self._records.read)}
            try:
                found = await patiently(
                    lambda: self._provider.candidates(sent.digest, len(sent.keys), sent.time), self._url
                )
            except Refused as refusal:
                raise TeacherError(
                    f"teacher-url: {self._url} does not list its batches ({refusal}); correct --teacher-url"
                ) from refusal
            for candidate in found:
                if candidate.sure or (candidate.id not in taken and await self._is(candidate.id, sent)):
                    return candidate.id
            if time.time() > settled:
                return None
            await asyncio.sleep(min(1.0, self._settle_s / 4))

    async def _is(self, id: str, sent: Sent) -> bool:
        """A batch's results are of these requests."""
        await self._until_ended(id)
        results = await patiently(lambda: self._provider.results(id), self._url)
        return set(results.found) == set(sent.keys)

    async def _collect(self, sent: Sent, calls: Sequence[_Call]) -> None:
        id = sent.id
        assert id is not None
        await self._until_ended(id)
        results = await patiently(lambda: self._provider.results(id), self._url)
        again: list[_Call] = []
        for call in calls:
            outcome = results.found.get(call.key, results.rest)
            if isinstance(outcome, Completion):
                self._resolve(call, outcome)
                continue
            await self._forget(call)
            if call.tries >= self._tries:
                self._resolve(call, no_answer(f"{GAVE_UP}: {outcome.reason}, tried {call.tries}×"))
            else:
                again.append(call)
        if again and not results.found:  # the batch as a whole went wrong, and may the next time if that comes at once
            await asyncio.sleep(random.uniform(0.5, 1.0) * self._poll_s * 2 ** again[0].tries)
        if again:
            self._gather(again)

    async def _until_ended(self, id: str) -> None:
        wait = self._poll_s
        while not await patiently(lambda: self._provider.ended(id), self._url):
            await asyncio.sleep(random.uniform(0.75, 1.0) * wait)
            wait = min(1.5 * wait, _LONGEST_POLLS * self._poll_s)

    # What becomes of a call

    def _resolve(self, call: _Call, answer: Completion) -> None:
        if not call.answer.done():
            self._calls.pop(call.key, None)
            call.answer.set_result(answer)

    def _start(self, work: Coroutine[None, None, None], calls: Sequence[_Call]) -> None:
        """Run in the background; what goes wrong is told to those who wait."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._finished, calls))

    def _finished(self, calls: Sequence[_Call], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        for call in calls:
            if not call.answer.done():
                self._calls.pop(call.key, None)
                call.answer.set_exception(error)
                call.answer.exception()  # somebody has looked at it, even if nobody waits any more


def _provider(name: ProviderName, url: str, model: str, key: str | None) -> BatchProvider:
    if name == "openai":
        from cp_ray.llm.batch_openai import OpenAIBatches

        return OpenAIBatches(url, model, key)
    if name == "anthropic":
        from cp_ray.llm.batch_anthropic import AnthropicBatches

        return AnthropicBatches(url, model, key)
    raise ConfigError(f"provider: must be openai or anthropic, got {name!r}")
