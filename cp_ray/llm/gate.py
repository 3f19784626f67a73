"""A worker's end of what is shared: every call passes the gate, in its order, when it may.

The gate renews the worker's lease with the cluster's limiter and its orders from the run's `Control` a few times a
second, and tells what happened since. While one of the two is being restarted it goes on by what it has.
"""

import asyncio
import contextlib
import math
import random
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from cp_ray.llm.bucket import Bucket
from cp_ray.llm.budget import Spending
from cp_ray.llm.concurrency import Concurrency
from cp_ray.llm.control import Orders, State, error_of
from cp_ray.llm.limiter import WINDOW_S, Lease, Report, Shown
from cp_ray.llm.shared import Shared

__all__ = ["Gate"]

_GAP_S = 0.02
"""Between two renewals, however urgent."""
_IDLE_S = 3.0
"""Without a call for so long, a worker gives its lease back."""


class Gate:
    """A worker's end. Made and used in one event loop."""

    def __init__(self, control: Any, limiter: Shared, *, most: int, probe: bool = True) -> None:
        """Nothing is asked of the cluster yet.

        Args:
            control: the run's actor.
            limiter: the endpoint's.
            most: calls under way at once, whatever the limits.
            probe: let few calls go until the first answer has shown which limits there are.
        """
        self._control, self._limiter, self._most = control, limiter, most
        self._bucket, self._concurrency = Bucket(phase=random.random()), Concurrency(most)
        self._queue: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._renewals: asyncio.Task[None] | None = None
        self._hurry, self._room = asyncio.Event(), asyncio.Event()
        self._orders: Orders | None = None
        self._lease: Lease | None = None
        self._stopped: BaseException | None = None
        self._through = self._refused = self._refused_now = 0
        self._answered = 0 if probe else 1
        self._pause_s, self._shown = 0.0, Shown()
        self._grant = self._reserved = 0.0
        self._begin()
        self.under_way = 0
        self.limit: tuple[float, float] = (math.inf, math.inf)
        """Requests and tokens a second of the whole cluster, as last told."""

    def _begin(self) -> None:
        """As a worker that has counted nothing: of one that has left the run keeps what it counted."""
        self._name, self._spent = uuid.uuid4().hex, 0.0
        self._calls, self._failures, self._replayed = 0, Counter[str](), 0

    async def enter(self, tokens: int, most_usd: float = 0.0, *, again: bool = False) -> int:
        """Wait until a call may go; gives the generation that it goes under. `again`: ahead of the others.

        Raises:
            CpRayError: the run is to stop.
        """
        if self._stopped is not None:
            raise self._stopped
        if self._renewals is None:
            self._renewals = asyncio.create_task(self._renew())
        if not self._queue and self._wait(tokens, most_usd) == 0.0:
            return self._go(most_usd)
        waiting = _Waiting(tokens, most_usd, asyncio.get_running_loop().create_future())
        (self._queue.appendleft if again else self._queue.append)(waiting)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._let_go())
        return await waiting.turn

    def leave(self, reserved_usd: float, spent_usd: float) -> None:
        """A call is over, whatever came of it."""
        self.under_way -= 1
        # Sums of fractions come out a trifle off; with nothing under way nothing is reserved.
        self._reserved = max(0.0, self._reserved - reserved_usd) if self.under_way else 0.0
        self._spent += spent_usd
        self._room.set()

    def answered(self, seconds: float, shown: Shown | None) -> None:
        """An answer came, with what its headers show if that is new."""
        self._answered += 1
        self._shown = shown or self._shown
        if self._lease is not None and self._lease.in_flight is not None:
            self._hurry.set()  # the first answer of all: the others are waiting to know
        if self._unlimited():
            self._concurrency.answered(seconds, self.under_way)

    def refused(self, generation: int, wait_s: float | None, shown: Shown | None) -> None:
        """The provider said 429."""
        self._refused += 1
        if self._lease is not None and generation == self._lease.generation:
            self._refused_now += 1
            self._through -= 1
        self._pause_s, self._shown = max(self._pause_s, wait_s or 0.0), shown or self._shown
        self._bucket.pause(wait_s or 0.0)
        self._hurry.set()

    def ended(self, failure: str | None) -> None:
        """A call came to its end: to an answer (None), or to none for this reason."""
        self._calls += 1
        if failure is not None:
            self._failures[failure] += 1

    def replayed(self) -> None:
        """The ledger had an answer."""
        self._replayed += 1

    async def report(self) -> None:
        """Tell what was counted since the last renewal."""
        if self._orders is not None or self._counted:
            await self._control.renew.remote(self._state())

    async def close(self) -> None:
        """Give the lease back."""
        tasks = [task for task in (self._pump, self._renewals) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks or self._counted:
            with contextlib.suppress(Exception):  # the cluster may be going down as well
                await self._leave(self._state())

    @property
    def _counted(self) -> bool:
        """Is there something to tell? Also of a gate that has left the run: a fallback may answer much later."""
        return bool(self._calls or self._replayed)

    async def _leave(self, last: State) -> None:
        await self._control.renew.remote(last)
        await asyncio.gather(self._limiter.leave(last.worker), self._control.leave.remote(last.worker))

    def _wait(self, tokens: int, most_usd: float) -> float:
        """0.0 and the bucket has counted the call, or seconds after which to look again."""
        orders, lease = self._orders, self._lease
        if orders is None or lease is None or orders.stopping:
            return WINDOW_S
        most = self._most if lease.in_flight is None else min(self._most, lease.in_flight)
        if self.under_way >= (min(most, int(self._concurrency.limit)) if self._unlimited() else most):
            return math.inf
        return WINDOW_S if most_usd > self._grant else self._bucket.take(tokens)

    def _unlimited(self) -> bool:
        return math.isinf(self.limit[0]) and math.isinf(self.limit[1])

    def _go(self, most_usd: float) -> int:
        self.under_way += 1
        self._through += 1
        self._grant -= most_usd
        self._reserved += most_usd
        return self._lease.generation if self._lease else 0

    async def _let_go(self) -> None:
        """Let those who wait go in their order, until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._queue:
            first = self._queue[0]
            wait = 0.0 if first.turn.done() else self._wait(first.tokens, first.most_usd)
            if wait > 0.0:
                self._room.clear()
                alarm = None if math.isinf(wait) else loop.call_later(wait, self._room.set)
                await self._room.wait()
                if alarm is not None:
                    alarm.cancel()
                continue
            self._queue.popleft()
            if not first.turn.done():  # else who asked has gone
                first.turn.set_result(self._go(first.most_usd))

    async def _renew(self) -> None:
        """Renew the lease for as long as there are calls."""
        busy = time.monotonic()
        try:
            # Looked at anew each time: while the actor is being restarted an answer may be long in coming.
            while self._queue or self.under_way or time.monotonic() - busy < _IDLE_S:
                busy = time.monotonic() if self._queue or self.under_way else busy
                self._hurry.clear()
                state, report = self._state(), self._report()
                self._refused_now, self._pause_s = 0, 0.0
                # Handed back for the moment, or it could be spent twice.
                self._grant = self._grant if math.isinf(self._grant) else 0.0
                lease, orders = await asyncio.gather(self._limiter.renew(report), self._control.renew.remote(state))
                self._follow(lease, orders)
                await asyncio.sleep(_GAP_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), lease.next_s - _GAP_S)
            last = self._state()
            self._orders, self._lease, self._renewals, self._through = None, None, None, 0
            self._begin()
            await self._leave(last)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._stop(error)
            raise

    def _report(self) -> Report:
        lease = self._lease
        return Report(
            worker=self._name,
            share=lease.share if lease else 0.0,
            generation=lease.generation if lease else 0,
            waiting=len(self._queue),
            through=self._through,
            refused=self._refused,
            refused_now=self._refused_now,
            answered=self._answered,
            shown=self._shown,
            pause_s=self._pause_s,
            learnt=lease.learnt if lease else None,
            run=self._limiter.run,
            told=self._limiter.told,
        )

    def _state(self) -> State:
        costs = [w.most_usd for w in self._queue if w.most_usd and not w.turn.done()]
        money = Spending(self._spent, self._reserved, costs[0] if costs else 0.0, sum(costs))
        seen = self._orders.spent if self._orders else 0.0
        return State(
            self._name, self.under_way, self._calls, dict(self._failures), self._replayed, money, seen, self._refused,
            self.limit[0],
        )  # fmt: skip

    def _follow(self, lease: Lease, orders: Orders) -> None:
        if self._lease is not None and lease.generation != self._lease.generation:
            self._through = self._refused_now = 0
        self._lease, self._orders = lease, orders
        self._bucket.renew(lease)
        self.limit, self._grant = lease.limit, orders.grant
        self._room.set()
        if orders.stop is not None:
            self._stop(error_of(*orders.stop))

    def _stop(self, error: BaseException) -> None:
        """Nobody waits for what will not come."""
        self._stopped = error
        while self._queue:
            turn = self._queue.popleft().turn
            if not turn.done():
                turn.set_exception(error)


@dataclass(slots=True)
class _Waiting:
    tokens: int
    most_usd: float
    turn: asyncio.Future[int]
