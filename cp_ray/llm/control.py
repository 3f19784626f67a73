"""What all workers of a run share: its money, and how many calls fail.

`Control` lives in a Ray actor, one for a run; each worker has a `gate.Gate` to it. When the actor dies, Ray starts it
again, and it learns from the workers' totals what it has forgotten. How fast calls may go is not a run's business but
the cluster's: `shared.Limiter`.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cp_ray.actors import beside
from cp_ray.errors import BudgetReached, CpRayError, TooManyFailures
from cp_ray.llm.budget import NOTHING, Purse, Spending
from cp_ray.llm.call import came_to_nothing

__all__ = ["Control", "Orders", "Rules", "State", "control", "error_of"]

_FEW = 50
"""Calls before the share of failures counts, while a step is under way. At its end they may be fewer."""
_DRAIN_S = 30.0
"""How long a run that is to stop waits for the calls that are under way."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run tells about itself."""

    budget: float | None = None
    """USD; None is no limit."""
    spent_before: float = 0.0
    """USD of the same run that were spent earlier."""
    max_failures: float = 1.0
    """Share of calls that may fail before the run stops."""
    run: str = ""
    """Its name among the metrics."""


@dataclass(frozen=True, slots=True)
class State:
    """All that a worker tells when it renews its lease."""

    worker: str
    under_way: int
    calls: int = 0
    """Calls that came to an end, over the worker's life."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Of them, those that came to no answer, by reason."""
    replayed: int = 0
    """Answers that the ledger had, over the worker's life."""
    money: Spending = NOTHING
    seen: float = 0.0
    """USD that the whole run had spent, by the worker's last orders; what a restarted actor would have forgotten."""
    refused: int = 0
    """Answers with status 429, over the worker's life."""
    allowed_per_s: float = math.inf
    """Requests a second of the whole cluster, by the worker's last lease."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told."""

    grant: float
    """USD that it may reserve on top of what it has reserved."""
    spent: float = 0.0
    """USD, by the whole run."""
    stopping: bool = False
    """No new calls."""
    stop: tuple[str, str] | None = None
    """The class and message of the error to end with, once nothing is under way."""


class Control:
    """What is known of a run."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._purse = Purse(rules.budget if rules.budget is not None else math.inf, rules.spent_before)
        self._states: dict[str, State] = {}
        self._calls_before, self._failures_before, self._replayed_before = 0, Counter[str](), 0
        self._judged: tuple[int, Counter[str], int] = (0, Counter(), 0)
        self._stopping: tuple[str, str] | None = None
        self._stopping_since = 0.0
        self._gauges, self._shown_at = _gauges(), 0.0

    def renew(self, state: State) -> Orders:
        """A worker's orders until it asks again."""
        self._states[state.worker] = state
        self._purse.seen = max(self._purse.seen, state.seen)
        grant = self._purse.grant(state.worker, state.money)
        if self._stopping is None:
            self._stopping, self._stopping_since = self._reason(), time.monotonic()
        self._show()
        drained = not any(s.under_way for s in self._states.values())
        late = time.monotonic() - self._stopping_since > _DRAIN_S
        stop = self._stopping if self._stopping and (drained or late) else None
        return Orders(grant, self._purse.spent(), self._stopping is not None, stop)

    def leave(self, worker: str) -> None:
        """A worker is done; what it counted stays."""
        state = self._states.pop(worker, None)
        if state is not None:
            self._calls_before += state.calls
            self._failures_before.update(state.failures)
            self._replayed_before += state.replayed
            self._purse.settle(worker)

    def verdict(self) -> tuple[str, str] | None:
        """Why the run is to stop, asked after a step, by all that was reported: the class and message of an error."""
        return self._stopping or self._reason() or self._of_the_step()

    def pid(self) -> int:
        """Of the process that it lives in."""
        import os

        return os.getpid()

    def _show(self) -> None:
        """Set the metrics, once a second at most."""
        if time.monotonic() - self._shown_at < 1.0 or not self._gauges:
            return
        self._shown_at = time.monotonic()
        calls, failures = self._counts()
        rate = min((s.allowed_per_s for s in self._states.values()), default=math.inf)
        values = {
            "calls": calls,
            "failures": failures.total(),
            "refusals": sum(s.refused for s in self._states.values()),
            "under_way": sum(s.under_way for s in self._states.values()),
            "spent_usd": self._purse.spent(),
            "allowed_per_s": rate if math.isfinite(rate) else -1.0,
        }
        for name, value in values.items():
            self._gauges[name].set(value, tags={"run": self._rules.run})

    def _counts(self) -> tuple[int, Counter[str]]:
        """Calls that came to an end, and why some of them came to no answer."""
        calls = self._calls_before + sum(s.calls for s in self._states.values())
        return calls, self._failures_before + sum((Counter(s.failures) for s in self._states.values()), Counter[str]())

    def _reason(self) -> tuple[str, str] | None:
        if self._purse.used_up():
            told, lost = f"{self._purse.spent():.4f} are spent", self._purse.lost()
            if round(lost, 4):
                told += f", of which {lost:.4f} were with workers that died"
            return "BudgetReached", (
                f"budget: {self._rules.budget:.2f} USD would be passed by the next call ({told}); the same command "
                "with a larger --budget goes on from here"
            )
        calls, failures = self._counts()
        return self._too_many(calls, failures) if calls >= _FEW else None

    def _of_the_step(self) -> tuple[str, str] | None:
        """Of the calls since it was asked last, however few, too many failed, whatever the steps before were answered.

        A step with hardly an answer would be taken for done, and what it asked for never be asked again. What the
        ledger had is an answer as well, or a run that goes on could end at the few that always fail. What a provider
        withholds says something of a model only where there are many calls; a few questions may just be of that kind.
        """
        calls, failures = self._counts()
        replayed = self._replayed_before + sum(s.replayed for s in self._states.values())
        calls_before, failures_before, replayed_before = self._judged
        self._judged = calls, failures, replayed
        since, failed = calls - calls_before, failures - failures_before
        if since < _FEW:
            failed = Counter({kind: n for kind, n in failed.items() if came_to_nothing(kind)})
        return self._too_many(since + replayed - replayed_before, failed)

    def _too_many(self, calls: int, failures: Counter[str]) -> tuple[str, str] | None:
        failed = failures.total()
        if failed <= self._rules.max_failures * calls:
            return None
        kinds = ", ".join(f"{n} {kind}" for kind, n in failures.most_common(3))
        return "TooManyFailures", (
            f"max-failures: {failed} of {calls} calls failed ({kinds}), more than a share of "
            f"{self._rules.max_failures:g}; look at `cp-ray calls`, mend it or raise --max-failures, and run again"
        )


_GAUGES = {
    "calls": "Calls that came to an end",
    "failures": "Calls that came to no answer",
    "refusals": "Answers with status 429, to the workers that are there now",
    "under_way": "Calls under way",
    "spent_usd": "USD spent by the run",
    "allowed_per_s": "Requests a second that the limits allow; -1 for no limit",
}


def _gauges() -> dict[str, Any]:
    """Ray's metrics, where there is a Ray."""
    import ray
    from ray.util.metrics import Gauge

    if not ray.is_initialized():
        return {}
    return {name: Gauge(f"cp_ray_{name}", description=told, tag_keys=("run",)) for name, told in _GAUGES.items()}


def control(rules: Rules) -> Any:
    """A new actor; it lives as long as somebody holds this handle or a copy of it."""
    return beside(Control, max_restarts=-1, max_task_retries=-1).remote(rules)


def error_of(kind: str, message: str) -> CpRayError:
    """The error that a control's verdict stands for."""
    kinds: dict[str, type[CpRayError]] = {"BudgetReached": BudgetReached, "TooManyFailures": TooManyFailures}
    return kinds[kind](message)
