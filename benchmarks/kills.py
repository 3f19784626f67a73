"""SIGKILL of the driver, of a worker, of the limiter, at random moments: what is lost and what is paid twice.

    python -m benchmarks.kills [--kills 20]

Dialogues of four dependent calls, 64 in flight, 100 ms a call. A killed driver takes its Ray with it and is started
again with the same command; a killed worker or limiter has to be replaced by the run itself.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.harness import Provider, provider
from benchmarks.results import append

CALLS, TURNS, IN_FLIGHT = 2400, 4, 64
PEERS = (
    "Peers, one SIGKILL after 1,500 of 3,000 answers, paid twice (in flight): curator 28 (25), async-batch-llm 63 "
    "(61), Data Designer 157 (49), Ray Data with CheckpointConfig 1,516 (16); distilabel's resumed run hung."
)


@dataclass
class Outcome:
    """Of all kills of one kind."""

    kills: int = 0
    runs: int = 0
    under_way: int = 0
    """Calls in flight at the kills, as the provider saw them."""
    repeated: int = 0
    rows: int = 0
    distinct: int = 0
    wanted: int = 0
    refused: int = 0


def main() -> None:
    """Kill, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--a-run", type=int, default=5, help="kills in one run folder")
    parser.add_argument("--only", default="driver,worker,limiter")
    given = parser.parse_args()
    draw, lines = random.Random(0), []
    columns = ("in flight", "repeated", "rows", "distinct", "wanted", "refused")
    print(f"{'killed':<9}{'kills':>6}{''.join(f'{column:>10}' for column in columns)}")
    for kind in given.only.split(","):
        outcome = Outcome()
        with provider(latency_ms=100, sigma=0.4) as server:
            while outcome.kills < given.kills:
                _one_run(server, kind, outcome, min(given.a_run, given.kills - outcome.kills), draw)
        lines.append({"killed": kind, **vars(outcome)})
        counts = (outcome.under_way, outcome.repeated, outcome.rows, outcome.distinct, outcome.wanted, outcome.refused)
        print(f"{kind:<9}{outcome.kills:>6}{''.join(f'{count:>10}' for count in counts)}", flush=True)
    print(PEERS)
    append("kills", {"calls": CALLS, "in_flight": IN_FLIGHT, "rows": lines})


def _one_run(server: Provider, kind: str, outcome: Outcome, kills: int, draw: random.Random) -> None:
    # The limiter has to have something to do; the others are killed at full speed.
    rpm = 12_000 if kind == "limiter" else 0
    server.set(rpm=rpm, burst_s=1.0)
    with tempfile.TemporaryDirectory() as root:
        process = _start(server, root, rpm)
        for number in range(kills):
            if not _wait_for_calls(server, process, CALLS * (number + draw.random()) / kills):
                break
            outcome.under_way += server.stats()["under_way"]
            outcome.kills += 1
            if kind == "driver":
                kill_session(process)
                process = _start(server, root, rpm)
            else:
                kill_one(process, "MapWorker" if kind == "worker" else "Limiter")
        out, err = process.communicate(timeout=300)
        if process.returncode:
            print(out, err[-3000:])
    found = re.search(r"rows (\d+) distinct (\d+)", out)
    stats = server.stats()
    outcome.runs += 1
    outcome.rows += int(found.group(1)) if found else 0
    outcome.distinct += int(found.group(2)) if found else 0
    outcome.wanted += CALLS // TURNS
    outcome.repeated += stats["repeated"]
    outcome.refused += stats["refused"]


def _start(server: Provider, root: str, rpm: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clients", "ours", "--url", server.url, "--root", root, "--calls", str(CALLS),
         "--turns", str(TURNS), "--in-flight", str(IN_FLIGHT), "--tag", "kills", "--rpm", str(rpm)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _wait_for_calls(server: Provider, process: "subprocess.Popen[str]", calls: float) -> bool:
    """Until so many distinct calls were answered; False if the run ended before."""
    while process.poll() is None:
        stats = server.stats()
        if stats["distinct"] >= calls and stats["under_way"]:
            return True
        time.sleep(0.005)
    return False


def _of_session(process: "subprocess.Popen[Any]", wanted: Callable[[str], bool]) -> list[int]:
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(one.pid) == process.pid and wanted(" ".join(one.cmdline())):
                found.append(one.pid)
    return found


def kill_session(process: "subprocess.Popen[Any]") -> None:
    """End a process and all of its session."""
    for pid in _of_session(process, lambda title: True):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def kill_one(process: "subprocess.Popen[Any]", title: str) -> None:
    """End one of a session's Ray workers, by what it is called."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in _of_session(process, lambda shown: shown.startswith("ray::") and title in shown)[:1]:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main()
