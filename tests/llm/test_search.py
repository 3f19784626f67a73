"""The rate that a provider allows, found by the workers' own gates and endpoints in simulated time.

Time goes on only while nothing is left to be done, so that what is found does not hang on how busy the machine is.
"""

import asyncio
import math
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from cp_ray.llm import control as controls
from cp_ray.llm import endpoint as endpoints
from cp_ray.llm import gate as gates
from cp_ray.llm.bucket import Bucket
from cp_ray.llm.call import Sampling
from cp_ray.llm.control import Control, Rules
from cp_ray.llm.endpoint import Endpoint
from cp_ray.llm.gate import Gate
from cp_ray.llm.limiter import Allowance, Lease, Limits, Report
from cp_ray.llm.shared import Shared
from cp_ray.records import Message

IN_FLIGHT, CALLS, WORKERS = 256, 3000, 2
ANSWER = b'{"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}'


class Waiting(selectors.SelectSelector):
    """Waits in no time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen again"
        self.now += timeout
        return super().select(0)


class Simulated(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.waiting = Waiting()
        super().__init__(self.waiting)

    def time(self) -> float:
        return self.waiting.now

    monotonic = time


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    simulated = Simulated()
    for module in (gates, endpoints, controls):
        monkeypatch.setattr(module, "time", simulated)
    monkeypatch.setattr(controls, "_gauges", dict)
    yield simulated
    simulated.close()


class Provider:
    """A bucket of one second of its limit, which may change; counts by the second."""

    def __init__(self, loop: Simulated, per_s: float, hint: bool, slow: int, draw: random.Random) -> None:
        self.loop, self.hint, self.slow, self.draw = loop, hint, slow, draw
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.limit(per_s)

    def limit(self, per_s: float) -> None:
        self.per_s = self.level = per_s
        self.at = self.loop.time()

    async def post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        await self.travel()
        now = self.loop.time()
        self.level, self.at = min(self.per_s, self.level + (now - self.at) * self.per_s), now
        if self.level < 1:
            self.refused.append(now)
            wait_ms = math.ceil(1000 * (1 - self.level) / self.per_s)
            await self.travel()
            return 429, {"retry-after-ms": str(wait_ms)} if self.hint else {}, b"{}"
        self.level -= 1
        await asyncio.sleep(0.3 * math.exp(0.4 * self.draw.gauss(0, 1)))
        self.answered.append(self.loop.time())
        await self.travel()
        return 200, {}, ANSWER

    async def travel(self) -> None:
        """Now and then something takes ten times as long."""
        seconds = self.slow * self.draw.uniform(0.001, 0.006)
        await asyncio.sleep(10 * seconds if self.draw.random() < 0.03 else seconds)


class Remote:
    """A method of the actor, a little way off."""

    def __init__(self, method: Callable[..., Any], travel: Callable[[], Awaitable[None]]) -> None:
        self.method, self.travel = method, travel

    async def remote(self, *args: Any) -> Any:
        await self.travel()
        result = self.method(*args)
        await self.travel()
        return result


class Actor:
    def __init__(self, travel: Callable[[], Awaitable[None]]) -> None:
        control = Control(Rules())
        self.renew, self.leave = Remote(control.renew, travel), Remote(control.leave, travel)


class Limiter(Shared):
    """One that all workers of the test share, as they share the actor."""

    def __init__(self, loop: Simulated, told: Limits, travel: Callable[[], Awaitable[None]]) -> None:
        super().__init__("test")
        self.allowance = allowance = Allowance(told, loop.time)
        self._renew, self._leave = Remote(allowance.renew, travel), Remote(allowance.leave, travel)

    async def renew(self, report: Report) -> Lease:
        lease: Lease = await self._renew.remote(report)
        return lease

    async def leave(self, worker: str) -> None:
        await self._leave.remote(worker)


async def work(loop: Simulated, actor: Actor, limiter: Limiter, provider: Provider) -> None:
    """One worker's share of the calls, so many at once."""
    await asyncio.sleep(provider.draw.random())
    gate = Gate(actor, limiter, most=IN_FLIGHT // WORKERS)
    gate._bucket = Bucket(loop.time, phase=provider.draw.random())
    endpoint = Endpoint("http://simulated", "m", None, gate=gate)
    endpoint._post = provider.post  # type: ignore[method-assign]
    left = iter(range(CALLS // WORKERS))

    async def lane() -> None:
        for _ in left:
            assert (await endpoint([Message("user", "?")], Sampling())).text == "Yes."

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT // WORKERS)))
    await gate.close()


async def run(loop: Simulated, told: int | None, provider: Provider, halved_after: float) -> None:
    actor, limiter = Actor(provider.travel), Limiter(loop, Limits(told), provider.travel)
    loop.call_later(halved_after, lambda: provider.limit(provider.per_s / 2))
    await asyncio.gather(*(work(loop, actor, limiter, provider) for _ in range(WORKERS)))


@pytest.mark.parametrize(("slow", "least"), [(1, 0.95), (10, 0.9)], ids=["", "on a busy machine"])
@pytest.mark.parametrize(
    ("told", "hint", "halved_after", "settle"),
    [(None, True, math.inf, 5), (None, False, math.inf, 5), (60_000, True, math.inf, 5), (6000, True, 12, 32)],
    ids=["untold", "untold and no hint", "told ten times too much", "halved"],
)
def test_nearly_the_whole_rate_is_found_at_once_and_little_refused(
    loop: Simulated, monkeypatch: pytest.MonkeyPatch,
    told: int | None, hint: bool, halved_after: float, settle: float, slow: int, least: float,
) -> None:  # fmt: skip
    draw = random.Random(0)
    monkeypatch.setattr(random, "uniform", draw.uniform)
    provider = Provider(loop, 100.0, hint, slow, draw)
    loop.run_until_complete(run(loop, told, provider, halved_after))
    assert len(provider.answered) == CALLS
    begin, end = settle, provider.answered[-1] - 1.5
    steady = sum(begin <= at < end for at in provider.answered)
    refused = sum(begin <= at < end for at in provider.refused)
    assert steady / (end - begin) / provider.per_s > least
    assert refused < 0.02 * steady
    assert len(provider.refused) - refused < 0.1 * CALLS


def test_calls_that_wait_outlast_an_actor_that_is_long_in_coming_back(loop: Simulated) -> None:
    async def run() -> None:
        far = lambda: asyncio.sleep(5.0)  # noqa: E731
        gate = Gate(Actor(far), Limiter(loop, Limits(rpm=60), far), most=8)
        gate._bucket = Bucket(loop.time)
        entered: list[float] = []

        async def call() -> None:
            await gate.enter(1)
            entered.append(loop.time())
            gate.answered(0.0, None)
            gate.leave(0.0, 0.0)

        await asyncio.wait_for(asyncio.gather(*(call() for _ in range(20))), 600)
        await gate.close()
        assert len(entered) == 20
        # 60 calls a minute, whoever was away: 20 of them take 19 s at least, less what the first moment allows.
        assert entered[-1] - entered[0] >= 10

    loop.run_until_complete(run())


class OfARun(Limiter):
    """The way of one run's workers to a limiter that others use as well."""

    def __init__(self, limiter: Limiter, run: str, told: Limits) -> None:
        Shared.__init__(self, "test", run, told)
        self._renew, self._leave = limiter._renew, limiter._leave


def test_two_runs_share_a_limit_equally_whatever_their_size(loop: Simulated) -> None:
    """One with a worker and one with three; the first says that the limit is ten times what it is."""
    provider = Provider(loop, 100.0, True, 1, random.Random(0))
    limiter, ended = Limiter(loop, Limits(), provider.travel), dict[str, list[float]]()

    async def worker(run: str, told: Limits, calls: int) -> None:
        gate = Gate(Actor(provider.travel), OfARun(limiter, run, told), most=64)
        gate._bucket = Bucket(loop.time, phase=provider.draw.random())
        endpoint = Endpoint("http://simulated", "m", None, gate=gate)
        endpoint._post = provider.post  # type: ignore[method-assign]
        left = iter(range(calls))

        async def lane() -> None:
            for _ in left:
                await endpoint([Message("user", "?")], Sampling())
                ended.setdefault(run, []).append(loop.time())

        await asyncio.gather(*(lane() for _ in range(64)))
        await gate.close()

    async def both() -> None:
        small = worker("small", Limits(rpm=60_000), 1500)
        await asyncio.gather(small, *(worker("large", Limits(rpm=6000), 1000) for _ in range(3)))

    loop.run_until_complete(both())
    assert provider.refused == []
    begin, end = 5.0, ended["small"][-1] - 2.0
    small, large = (sum(begin <= at < end for at in ended[run]) / (end - begin) for run in ("small", "large"))
    assert abs(small / large - 1) < 0.03
    assert small + large > 0.97 * 100
    # Once the small one is gone, the large one has all of it.
    begin, end = ended["small"][-1] + 4.0, ended["large"][-1] - 2.0
    assert sum(begin <= at < end for at in ended["large"]) / (end - begin) > 0.97 * 100
