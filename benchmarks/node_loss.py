"""A node taken away in the midst of generation, dedup, training and serving: what is lost, doubled or made again.

    python -m benchmarks.node_loss [--times 5] [--only generation,serving]

One Ray cluster of a head without CPUs and two nodes on this machine; a node's raylet is killed with all that runs on
it, the run goes on with the other, and a new node takes its place for the next time. Each result is compared with that
of an undisturbed run.
"""

import argparse
import contextlib
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import node_loss_stages as stages
from benchmarks.results import append

CPUS = 2
"""Of each of the two nodes."""


@dataclass
class Outcome:
    """Of one stage, over all nodes that were taken away."""

    removed: int = 0
    right: int = 0
    """Runs with the undisturbed run's result."""
    under_way: int = 0
    """Calls, or requests, in flight when the nodes went."""
    again: int = 0
    """Calls that were made twice, training steps that were made again, requests that a client had to send again."""
    seconds: list[float] = field(default_factory=list)
    """Of each run."""
    undisturbed_s: float = 0.0


class Nodes:
    """A head without CPUs, which the driver is on, and nodes that come and go."""

    def __init__(self) -> None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: listen on loopback alone
        # Five missed checks make a node dead; by default there is one every three seconds.
        os.environ.setdefault("RAY_health_check_period_ms", "500")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        import ray
        from ray.cluster_utils import Cluster

        from cp_ray.cluster import quiet

        head = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        self.fill()
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        quiet()

    def fill(self) -> None:
        """Put others in the place of those that are gone; in the main thread, as Ray wants it."""
        while len(self._cluster.worker_nodes) < 2:
            self._cluster.add_node(num_cpus=CPUS, node_ip_address="127.0.0.1", object_store_memory=256 * 2**20)

    def take_away(self, title: str, draw: random.Random) -> None:
        """Kill one of the nodes on which a process of Ray's is called so."""
        having: list[Any] = []
        while not having:
            having = [node for node in self._cluster.worker_nodes if _has(node, title)]
        self._cluster.remove_node(draw.choice(having), allow_graceful=False)

    def close(self) -> None:
        """End all of it."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


def _has(node: Any, title: str) -> bool:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                return True
    return False


class Strike:
    """Takes a node away at a moment of a run."""

    def __init__(self, nodes: Nodes, draw: random.Random, *, armed: bool) -> None:
        self._nodes, self._draw, self._armed = nodes, draw, armed
        self._thread: threading.Thread | None = None
        self.removed, self.under_way = 0, 0

    def when(self, title: str, how_far: Callable[[], float], under_way: Callable[[], int] = lambda: 0) -> None:
        """Begin to watch: strike at a random part of the way, at a node with a process that is called so."""
        goal = 0.05 + 0.75 * self._draw.random()

        def watch() -> None:
            while how_far() < goal:
                time.sleep(0.02)
            self.under_way, self.removed = under_way(), 1
            self._nodes.take_away(title, self._draw)

        if self._armed:
            self._thread = threading.Thread(target=watch, daemon=True)
            self._thread.start()

    def over(self) -> None:
        """The run is."""
        if self._thread is not None:
            self._thread.join(timeout=60)
        self._nodes.fill()


def main() -> None:
    """Take nodes away, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=5, help="of each stage")
    parser.add_argument("--only", default=",".join(stages.STAGES))
    given = parser.parse_args()
    draw, lines, nodes = random.Random(0), [], Nodes()
    columns = ("right", "in flight", "again")
    print(f"{'during':<12}{'removed':>8}{''.join(f'{c:>11}' for c in columns)}{'seconds':>18}{'undisturbed':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only.split(","):
            found = _stage(name, given.times, nodes, Path(folder) / name, draw)
            lines.append({"during": name, **vars(found)})
            took = f"{min(found.seconds):.0f} to {max(found.seconds):.0f}"
            counts = "".join(f"{n:>11}" for n in (found.right, found.under_way, found.again))
            print(f"{name:<12}{found.removed:>8}{counts}{took:>18}{found.undisturbed_s:>13.0f}", flush=True)
    nodes.close()
    append("node_loss", {"nodes": 2, "cpus": CPUS, "rows": lines})


def _stage(name: str, times: int, nodes: Nodes, work: Path, draw: random.Random) -> Outcome:
    outcome, wanted = Outcome(), None
    work.mkdir()
    with stages.STAGES[name](work) as run:
        for number in range(times + 1):
            strike, began = Strike(nodes, draw, armed=number > 0), time.monotonic()
            result, again = run(f"run-{number}", strike)
            took = time.monotonic() - began
            strike.over()
            right = number == 0 or result == wanted
            print(f"  {name} {number}: {took:.0f} s, {again} again, right: {right}", file=sys.stderr, flush=True)
            if number == 0:
                wanted, outcome.undisturbed_s = result, round(took, 1)
                continue
            outcome.removed += strike.removed
            outcome.right += right
            outcome.under_way += strike.under_way
            outcome.again += again
            outcome.seconds.append(round(took, 1))
    return outcome


if __name__ == "__main__":
    main()
