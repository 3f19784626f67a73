"""One rate for the whole cluster: what a provider allows, shared out in leases, learnt where it is not told.

    Allowance   knows the rate, and gives each worker a share of it; one for an endpoint and a cluster
    Bucket      a worker's end (`bucket.py`): lets its calls go at the rate of its lease

Both are plain objects with a clock of their choice; `shared` puts the first into a Ray actor. A worker renews its
lease a few times a second, so the load on the actor grows with workers and not with calls. The shares of all leases
never sum to more than the whole (as in Google's Doorman), so no moment sees more than the limit. Runs get equal parts,
as far as they want them; within a run a worker's part grows with what waits there.

The rate is the least of what the user tells, what the provider's headers show, and what its refusals taught. A refusal
counts once for each generation of leases: late ones, of calls that went under an older rate, do not lower the new one,
nor do any while some worker still goes by the older one. Between two refusals that are near each other the provider's
bucket was empty at both ends, so what it let through in between is its rate; that is what is learnt. What came through
is counted under each generation by itself, or the late refusals would be taken off the newer calls.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cp_ray.errors import ConfigError

__all__ = ["NO_LIMITS", "Allowance", "Lease", "Limits", "Report", "Shown", "least"]

Clock = Callable[[], float]

WINDOW_S, IDLE_WINDOW_S = 0.1, 0.5
"""A worker asks for a new lease no oftener than this; the second where no limit is known."""
ASKS_PER_S = 400
"""Of all workers together; with more of them each asks less often."""
LEASE_S = 5.0
"""How long a worker goes on by its last lease when nobody renews it: the time an actor takes to come back."""
FORGOTTEN_S = 2.0
"""After so long without a word from a worker (at the least) its share is given to the others."""

_ENOUGH = 8
"""A run with so many calls waiting wants its whole part; one with fewer gets less, and more once they pile up."""

PROBE = 96
"""Calls under way in the whole cluster until the first answer has shown which limits there are."""

_SETTLE_S = 0.8
"""A refusal that comes sooner after all workers follow a decrease is of the same event, and too soon to measure by."""
_NEAR_S = 3.0
"""Two refusals no farther apart than this had the provider's bucket empty all the time between them."""
_HOLD_S, _LONGEST_HOLD_S = 3.0, 60.0
"""How long a learnt rate is kept before a higher one is tried; doubled each time that was in vain."""
_BELOW, _GROWTH = 0.985, 0.004
"""Of the learnt rate that is used; growth a second when trying a higher one, by as much more for each second that this
goes well."""
_BACK = 0.9
"""What is left of a rate that went well for long, when it is refused after all."""
_SEARCH_GROWTH, _SEARCH_BACK = 0.3, 0.6
"""Growth a second while the rate is not known yet; what is left of it after the refusal that this ends in."""
_DOUBT_HOLD_S, _DOUBT_GROWTH = 1.0, 0.02
"""How long a rate that may have been measured too low is kept, and how much faster it grows until it is refused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider allows a minute; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None

    def __post_init__(self) -> None:
        for name in ("rpm", "tpm"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")


NO_LIMITS = Limits()


def least(told: Iterable[Limits]) -> Limits:
    """What keeps all of them."""
    every = list(told)
    return Limits(*(min(filter(None, (getattr(one, name) for one in every)), default=None) for name in ("rpm", "tpm")))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a provider's headers say it allows; None where they say nothing."""

    requests_per_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells when it renews its lease.

    All counts but `refused_now` are totals, so that a report may be told twice.
    """

    worker: str
    share: float
    """Of the last lease; with it a restarted actor learns what is out."""
    generation: int
    """Of the last lease."""
    waiting: int
    """Calls that wait for their turn."""
    through: int
    """Calls that went under the last lease's generation and were not refused."""
    refused: int
    """429s, over the worker's life."""
    refused_now: int
    """Those of calls that went under the last lease's generation, since the last report."""
    answered: int
    """Over the worker's life."""
    shown: Shown = Shown()
    pause_s: float = 0.0
    """The longest that the provider asked to wait, since the last report."""
    learnt: float | None = None
    """Of the last lease: what a restarted actor would have forgotten."""
    run: str = ""
    """Whose worker it is."""
    told: Limits | None = None
    """What that run says is allowed; None: it does not say, not even that nothing is known."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may do until the next one."""

    generation: int
    share: float
    """Of the cluster's rate."""
    requests_per_s: float
    tokens_per_s: float
    in_flight: int | None
    """Calls under way at most; None: as many as the worker likes."""
    pause_s: float
    next_s: float
    """When to ask again."""
    learnt: float | None = None
    limit: tuple[float, float] = (math.inf, math.inf)
    """Requests and tokens a second of the whole cluster."""


@dataclass(slots=True)
class _Worker:
    run: str = ""
    told: Limits | None = None
    share: float = 0.0
    waiting: int = 0
    heard: float = 0.0
    late: bool = False
    """Has it not told yet that it follows the last decrease?"""
    since: float = 0.0
    """Since when what comes through is counted."""
    before: int = 0
    """Of its generation, what had come through then."""
    through: int = 0
    """What has come through since."""


@dataclass(slots=True)
class Allowance:
    """The rate of one endpoint and who has which share of it.

    `restarted`: what is out is not known, so for the first `FORGOTTEN_S` everybody keeps just the share that it has.
    """

    limits: Limits
    """What is told; of several runs that tell different things, the least."""
    clock: Clock = time.monotonic
    restarted: bool = False
    shown: Shown = Shown()
    learnt: float | None = None
    """Calls a second that the provider's refusals taught."""
    generation: int = 0
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _began: float = 0.0
    _first_sent: float = math.inf
    """Workers may be long in coming up."""
    _answered: bool = False
    _paused_until: float = -math.inf
    _since: float = -math.inf
    """Since when all workers follow the last decrease; -inf: there was none; inf: some are late."""
    _hold_s: float = _HOLD_S
    _held_until: float = math.inf
    _grown: float = 0.0
    _known: bool = False
    """Is the learnt rate measured between two refusals, or a first guess?"""
    _measured: float = math.inf
    """The last rate that was measured."""
    _doubted: bool = False
    """Is it the first, or far below the one before? Callers hold back after a refusal, and reports come late."""

    def __post_init__(self) -> None:
        self._began = self._grown = self.clock()

    def renew(self, report: Report) -> Lease:
        """A worker's next lease, after what it reports has been taken in."""
        now = self.clock()
        new = _Worker(report.run, report.told, report.share, since=min(self._since, now), before=report.through)
        worker = self._workers.setdefault(report.worker, new)
        worker.heard, worker.waiting = now, report.waiting
        self._forget(now)
        if report.told not in (None, self.limits):
            self.limits = least(self.told_by().values())
        self._take_in(report, worker, now)
        self._grow(now)
        worker.share = self._share(worker, now)
        requests, tokens = self.rates()
        return Lease(
            generation=self.generation,
            share=worker.share,
            requests_per_s=requests * worker.share if requests < math.inf else math.inf,
            tokens_per_s=tokens * worker.share if tokens < math.inf else math.inf,
            in_flight=None if self._answered or self._limited() else max(1, PROBE // len(self._workers)),
            pause_s=max(0.0, self._paused_until - now),
            next_s=self._window(),
            learnt=self.learnt,
            limit=(requests, tokens),
        )

    def leave(self, worker: str) -> None:
        """A worker has no more calls."""
        self._workers.pop(worker, None)

    def told_by(self) -> dict[str, Limits]:
        """What each run that is here says."""
        return {w.run: w.told for w in self._workers.values() if w.told is not None}

    def rates(self) -> tuple[float, float]:
        """Requests and tokens a second of the whole cluster; infinite where no limit is known."""
        requests = (self.limits.rpm and self.limits.rpm / 60, self.shown.requests_per_s, self.learnt)
        tokens = (self.limits.tpm and self.limits.tpm / 60, self.shown.tokens_per_s)
        return (
            min((r for r in requests if r is not None), default=math.inf),
            min((t for t in tokens if t is not None), default=math.inf),
        )

    def _limited(self) -> bool:
        return self.rates() != (math.inf, math.inf)

    def _window(self) -> float:
        # Without a limit there is nothing to share; a worker that is refused asks at once.
        window = IDLE_WINDOW_S if self._answered and not self._limited() else WINDOW_S
        return max(window, len(self._workers) / ASKS_PER_S)

    def _forget(self, now: float) -> None:
        patience = max(FORGOTTEN_S, 4 * self._window())
        for name in [n for n, w in self._workers.items() if now - w.heard > patience]:
            del self._workers[name]

    def _share(self, worker: _Worker, now: float) -> float:
        others = sum(w.share for w in self._workers.values() if w is not worker)
        if self.restarted and now - self._began < max(FORGOTTEN_S, 4 * self._window()):
            return min(worker.share, max(0.0, 1.0 - others))
        return min(self._fair(worker), max(0.0, 1.0 - others))

    def _fair(self, worker: _Worker) -> float:
        """A worker's part of what its run gets of the whole."""
        waiting, weights = dict[str, int](), dict[str, int]()
        for one in self._workers.values():
            waiting[one.run] = waiting.get(one.run, 0) + one.waiting
            weights[one.run] = weights.get(one.run, 0) + (one.waiting or 1)
        wanted = {run: max(1, min(_ENOUGH, n)) for run, n in waiting.items()}
        return wanted[worker.run] / sum(wanted.values()) * (worker.waiting or 1) / weights[worker.run]

    def _take_in(self, report: Report, worker: _Worker, now: float) -> None:
        if report.learnt is not None and self.learnt is None:
            self.learnt, self._known, self._held_until = report.learnt, True, now + self._hold_s
        if report.generation > self.generation:
            self.generation = report.generation
        if report.generation == self.generation:
            worker.late, worker.through = False, report.through - worker.before
        if self._since == math.inf and not any(w.late for w in self._workers.values()):
            self._begin(now)
        self._first_sent = min(self._first_sent, now if report.through else math.inf)
        self._answered = self._answered or report.answered > 0 or report.refused > 0
        if report.shown != Shown() and report.shown != self.shown:
            self._show(report.shown)
        self._paused_until = max(self._paused_until, now + report.pause_s if report.pause_s else -math.inf)
        if report.refused_now and report.generation == self.generation:
            self._decrease(now)

    def _show(self, shown: Shown) -> None:
        """Headers are the provider's own word: what refusals taught before is outdated."""
        self.shown, self.learnt, self._known, self._measured = shown, None, False, math.inf

    def _decrease(self, now: float) -> None:
        since, (requests, _) = now - self._since, self.rates()
        if since < _SETTLE_S:
            return
        if since <= _NEAR_S:
            # The bucket was empty then and is now: what came through is the rate.
            self.learnt, self._known = max(_BELOW * self._through_per_s(), requests / 2), True
            self._doubted, self._measured = self.learnt < _BACK * self._measured, self.learnt
        elif self.learnt is not None and not self._known:
            # While searching, a full bucket hid for a while that the rate was passed already. It is empty now: the
            # next refusal is near and measures.
            self.learnt = _SEARCH_BACK * requests
        elif since == math.inf and self._guess(now) < requests / 2:
            # The first refusal, and no limit known, or one that is far too high.
            self.learnt = self._guess(now)
        else:
            # What came through is no more than the rate, and what we tried is more than it.
            through = min(_BELOW * self._through_per_s(), requests) if since < math.inf else 0.0
            self.learnt, self._known, self._doubted = max(_BACK * requests, through), True, False
        self.learnt = max(self.learnt, 0.1)
        self.generation += 1
        self._since = math.inf
        for worker in self._workers.values():
            worker.late, worker.before, worker.through = True, 0, 0
        self._hold(now)

    def _begin(self, now: float) -> None:
        """All workers follow the last decrease: from now on it is counted what comes through."""
        self._since = now
        for worker in self._workers.values():
            worker.since, worker.before, worker.through = worker.heard, worker.before + worker.through, 0

    def _through_per_s(self) -> float:
        """What came through since, of each worker until its last word; one without a word is taken for the others."""
        heard = [w for w in self._workers.values() if w.heard > w.since]
        through = sum(w.through / (w.heard - w.since) for w in heard)
        return through * sum(w.share for w in self._workers.values()) / max(1e-9, sum(w.share for w in heard))

    def _guess(self, now: float) -> float:
        """A rate to begin with: what came through until the first refusal came in about the bucket's depth."""
        return max(1.0, 0.8 * sum(w.through for w in self._workers.values()) / max(1.0, now - self._first_sent))

    def _hold(self, now: float) -> None:
        """Say until when the new rate is kept."""
        if not self._known:
            self._held_until = now
        elif self._doubted:
            self._held_until = now + _DOUBT_HOLD_S
        else:
            self._held_until = now + self._hold_s
            self._hold_s = min(_LONGEST_HOLD_S, self._hold_s * 2)

    def _grow(self, now: float) -> None:
        elapsed, self._grown = now - self._grown, now
        if self.learnt is None or now < self._held_until or now - self._since <= _SETTLE_S:
            return
        growth = _GROWTH * (1 + now - self._held_until) + _DOUBT_GROWTH * self._doubted
        self.learnt *= 1 + min(growth if self._known else _SEARCH_GROWTH, _SEARCH_GROWTH) * min(elapsed, 1.0)
        ceilings = (self.limits.rpm and self.limits.rpm / 60, self.shown.requests_per_s)
        if self.learnt >= min((ceiling for ceiling in ceilings if ceiling), default=math.inf):
            self.learnt = None
