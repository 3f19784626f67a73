"""A hundred nodes with sixteen workers each under one limit: what the limiter's actor has to do, and what is reached.

    python -m benchmarks.lease_simulation

The limiter's own code (`Allowance`, `Bucket`) in simulated time, with a provider whose bucket holds one second of its
limit, a network that takes 1 to 20 ms each way, and workers that stall now and then. Then the real actor is asked for
leases as fast as it can give them, to set its capacity beside the load.
"""

import argparse
import heapq
import random
import time
from dataclasses import dataclass, field

from benchmarks.results import append
from cp_ray.llm.bucket import Bucket
from cp_ray.llm.limiter import Allowance, Lease, Limits, Report


@dataclass
class Clock:
    """Simulated time."""

    now: float = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass
class Provider:
    """A bucket of one second of the limit."""

    clock: Clock
    per_s: float
    level: float = 0.0
    at: float = 0.0
    admitted: int = 0
    refused: int = 0

    def ask(self) -> bool:
        """Is a request taken?"""
        self.level = min(self.per_s, self.level + (self.clock.now - self.at) * self.per_s)
        self.at = self.clock.now
        taken = self.level >= 1
        self.level -= taken
        self.admitted += taken
        self.refused += not taken
        return taken


@dataclass
class Worker:
    """With more calls than it may send."""

    name: str
    bucket: Bucket
    through: int = 0
    refused: int = 0
    refused_now: int = 0
    answered: int = 0

    def report(self) -> Report:
        """What it tells."""
        lease = self.bucket.lease
        share, generation = (lease.share, lease.generation) if lease else (0.0, 0)
        now, self.refused_now = self.refused_now, 0
        return Report(self.name, share, generation, 50, self.through, self.refused, now, self.answered)


@dataclass(order=True)
class Event:
    """Something that happens to a worker."""

    at: float
    number: int
    kind: str = field(compare=False)
    worker: Worker = field(compare=False)
    lease: Lease | None = field(compare=False, default=None)


def simulate(nodes: int, per_node: int, rpm: int, seconds: float, seed: int = 0) -> dict[str, float]:
    """The share of the limit that is reached after the first 10 s, refusals, and the actor's load."""
    clock, draw = Clock(), random.Random(seed)
    provider, allowance = Provider(clock, rpm / 60), Allowance(Limits(rpm), clock)
    number, events, asks = 0, list[Event](), 0

    def push(after: float, kind: str, worker: Worker, lease: Lease | None = None) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, Event(clock.now + after, number, kind, worker, lease))

    for k in range(nodes * per_node):
        push(draw.random(), "ask", Worker(str(k), Bucket(clock, phase=draw.random())))
    warm: tuple[float, int, int] | None = None
    while events and clock.now < seconds:
        event = heapq.heappop(events)
        clock.now, worker = event.at, event.worker
        if warm is None and clock.now > 10:
            warm = (clock.now, provider.admitted, asks)
        if event.kind == "ask":
            asks += 1
            lease = allowance.renew(worker.report())
            push(draw.uniform(0.001, 0.02), "lease", worker, lease)
        elif event.kind == "lease" and event.lease is not None:
            before = worker.bucket.lease
            if before is None or before.generation != event.lease.generation:
                worker.through = 0
            worker.bucket.renew(event.lease)
            stall = draw.uniform(0.5, 2.0) if draw.random() < 0.002 else 0.0
            push(event.lease.next_s + draw.uniform(0.001, 0.02) + stall, "ask", worker)
            if before is None:
                push(0.0, "send", worker)
        elif event.kind == "send":
            wait = worker.bucket.take(1)
            while wait == 0.0:
                taken = provider.ask()
                worker.answered += taken
                worker.through += taken
                worker.refused += not taken
                worker.refused_now += not taken
                wait = worker.bucket.take(1)
            push(wait, "send", worker)
    assert warm is not None
    span = clock.now - warm[0]
    return {
        "share": (provider.admitted - warm[1]) / span / provider.per_s,
        "refused_share": provider.refused / max(1, provider.admitted + provider.refused),
        "asks_per_s": (asks - warm[2]) / span,
    }


def capacity(seconds: float = 5.0) -> float:
    """Leases a second that the real actor gives, asked by some clients at once."""
    import ray

    from cp_ray.cluster import connected
    from cp_ray.llm.shared import Shared

    def ask(actor: object, name: str, seconds: float) -> int:
        end, asked = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            some = [
                actor.renew.remote(Report(f"{name}/{k}", 0.0, 0, 50, 0, 0, 0, 1, told=Limits(6000)))  # type: ignore[attr-defined]
                for k in range(20)
            ]
            ray.get(some)
            asked += len(some)
        return asked

    with connected():
        actor = Shared("cp_ray.limiter.simulation").actor()
        task = ray.remote(num_cpus=0)(ask)
        ray.get([task.remote(actor, "warm", 0.5) for _ in range(3)])
        asked = ray.get([task.remote(actor, str(k), seconds) for k in range(3)])
    return float(sum(asked)) / seconds


def main() -> None:
    """Simulate, measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    print(f"{'nodes':>6}{'workers':>9}{'rpm':>10}{'share':>8}{'refused':>9}{'leases/s':>10}")
    lines = []
    for nodes, per_node, rpm in ((1, 4, 6000), (10, 16, 30_000), (100, 16, 6000), (100, 16, 300_000)):
        found = simulate(nodes, per_node, rpm, given.seconds)
        lines.append(
            {"nodes": nodes, "workers": nodes * per_node, "rpm": rpm, **{k: round(v, 4) for k, v in found.items()}}
        )
        print(
            f"{nodes:>6}{nodes * per_node:>9}{rpm:>10,}{found['share']:>8.3f}{found['refused_share']:>9.5f}"
            f"{found['asks_per_s']:>10.0f}",
            flush=True,
        )
    most = capacity()
    print(f"the real actor gives {most:,.0f} leases a second on this machine")
    append("lease_simulation", {"rows": lines, "capacity": round(most)})


if __name__ == "__main__":
    main()
