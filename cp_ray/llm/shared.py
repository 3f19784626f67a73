"""One limiter for an endpoint, a model and a key, shared by all runs on a cluster.

It is a detached actor, found by a name in which the key stands as a hash. Whoever comes first makes it; it ends by
itself when nobody has asked it for a while, and is made again by the next who asks. When it dies, Ray starts it again;
meanwhile the workers go on by the leases they hold, and the new actor grants nobody more than that until it has heard
of all of them. So its death makes no burst, and it forgets nothing that matters.
"""

import asyncio
import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from cp_ray.actors import beside
from cp_ray.llm.limiter import NO_LIMITS, Allowance, Lease, Limits, Report

__all__ = ["Limiter", "Shared", "limiter_name"]

_FORMAT = 1
"""Of what workers and limiter tell each other. Runs of another version of cp_ray have a limiter of their own."""
_NAMESPACE = "cp_ray"
_LINGERS_S = 30.0
"""Without a word for so long, it ends."""
_TRIES, _PAUSE_S = 6, 0.1


def limiter_name(url: str, model: str, key: str | None) -> str:
    """The name of an endpoint's limiter: what a provider counts by, and nothing that tells the key."""
    body = "\n".join((url.rstrip("/"), model, key or ""))
    return f"cp_ray.limiter.{_FORMAT}.{hashlib.sha256(body.encode()).hexdigest()[:24]}"


class Limiter:
    """The actor."""

    def __init__(self, lingers_s: float = _LINGERS_S) -> None:
        import ray

        self._allowance = Allowance(
            NO_LIMITS, restarted=bool(ray.get_runtime_context().was_current_actor_reconstructed)
        )
        self._lingers_s, self._heard = lingers_s, time.monotonic()
        threading.Thread(target=self._end, daemon=True).start()

    def renew(self, report: Report) -> Lease:
        """As in `Allowance`."""
        self._heard = time.monotonic()
        return self._allowance.renew(report)

    def leave(self, worker: str) -> None:
        """As in `Allowance`."""
        self._allowance.leave(worker)

    def told_by(self) -> dict[str, Limits]:
        """As in `Allowance`."""
        self._heard = time.monotonic()
        return self._allowance.told_by()

    def pid(self) -> int:
        """Of the process that it lives in."""
        import os

        return os.getpid()

    def _end(self) -> None:
        """End when the last has gone."""
        import ray

        while time.monotonic() - self._heard < self._lingers_s:
            time.sleep(min(1.0, self._lingers_s / 4))
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


@dataclass(slots=True)
class Shared:
    """The way to a limiter, which is made where there is none; and who comes."""

    name: str
    run: str = ""
    told: Limits | None = None
    """What this run says is allowed."""
    lingers_s: float = _LINGERS_S
    _handle: Any = field(default=None, repr=False)

    async def renew(self, report: Report) -> Lease:
        """A worker's next lease."""
        from ray.exceptions import ActorDiedError

        for attempt in range(_TRIES):
            try:
                lease: Lease = await self.actor().renew.remote(report)
                return lease
            except ActorDiedError:  # it had ended, and its name may outlive it for a moment
                self._handle = None
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        return await self.actor().renew.remote(report)  # type: ignore[no-any-return]

    async def leave(self, worker: str) -> None:
        """A worker has no more calls."""
        from ray.exceptions import ActorDiedError

        if self._handle is not None:
            with contextlib.suppress(ActorDiedError):  # then it knows nobody any more
                await self._handle.leave.remote(worker)

    def others(self) -> list[Limits]:
        """What other runs say that use the endpoint now."""
        import ray
        from ray.exceptions import ActorDiedError

        try:
            told: dict[str, Limits] = ray.get(self.actor().told_by.remote())
        except ActorDiedError:  # it had ended, as nobody asked
            self._handle = None
            return []
        return [limits for run, limits in told.items() if run != self.run]

    def actor(self) -> Any:
        """The actor's handle."""
        if self._handle is None:
            options = {"max_restarts": -1, "max_task_retries": -1, "lifetime": "detached", "get_if_exists": True}
            kind = beside(Limiter, name=self.name, namespace=_NAMESPACE, **options)
            self._handle = kind.remote(self.lingers_s)
        return self._handle
