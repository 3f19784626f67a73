"""Runs a client against the provider and measures it from outside: rate, CPU and memory of its whole process tree.

From the first request that the provider receives to its last answer, so that start-up does not count.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

__all__ = ["Measured", "Provider", "measure", "provider"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one client."""

    calls_per_s: float
    cpu_ms: float
    """A call, user and system time of the process tree."""
    memory_mb: float
    """Peak of the tree's proportional set."""
    workers_mb: float
    """Peak of that of the processes that make the calls."""
    stats: dict[str, Any]
    output: str
    status: int


@dataclass(frozen=True, slots=True)
class Provider:
    """The benchmark's own server, or another with the same interface."""

    port: int

    @property
    def url(self) -> str:
        """Up to /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def set(self, **settings: Any) -> None:
        """Change settings and begin to count afresh."""
        self._get("set", json.dumps(settings).encode())

    def stats(self) -> dict[str, Any]:
        """What it counted."""
        found: dict[str, Any] = json.loads(self._get("stats"))
        return found

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", data=body, timeout=30) as reply:
            return bytes(reply.read())


@contextlib.contextmanager
def provider(**settings: Any) -> Iterator[Provider]:
    """A provider while inside."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--{name.replace('_', '-')}={str(value).lower()}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.provider", "--port", str(port), *options], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Provider(port)
    finally:
        process.terminate()
        process.wait()


def measure(server: Provider, client: str, *, calls: int, during: Any = None, **options: Any) -> Measured:
    """Run `python -m benchmarks.clients <client>` to its end. `during(process)` runs in a thread beside it."""
    command = [sys.executable, "-m", "benchmarks.clients", client, "--url", server.url, "--calls", str(calls)]
    for name, value in {"tag": time.time_ns(), **options}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    watch = _Watch(process.pid, server, calls)
    thread = threading.Thread(target=during, args=(process,), daemon=True) if during else None
    if thread:
        thread.start()
    with watch:
        out, err = process.communicate()
    stats = server.stats()
    return Measured(
        calls_per_s=stats["per_s"],
        cpu_ms=1000 * watch.cpu_s / max(1, stats["ok"]),
        memory_mb=watch.memory / 2**20,
        workers_mb=watch.workers / 2**20,
        stats=stats,
        output=out + err[-2000:],
        status=process.returncode,
    )


class _Watch:
    """Looks at a process tree and at the provider a few times a second."""

    def __init__(self, pid: int, server: Provider, calls: int) -> None:
        self.process, self.server, self.calls = psutil.Process(pid), server, calls
        self.cpu_s, self.memory, self.workers = 0.0, 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began: dict[int, float] | None = None
        last: dict[int, float] = {}
        looks = 0
        while not self._stop.wait(0.05 if began is None else 0.25):
            stats = self.server.stats()
            if began is None:
                if stats["received"] == 0:
                    continue
                began = _tree_cpu_s(self.process)
            # What a process used stays used when it has ended.
            last.update(_tree_cpu_s(self.process))
            self.cpu_s = sum(used - began.get(pid, 0.0) for pid, used in last.items())
            looks += 1
            if looks % 8 == 0:
                everything, workers = _tree_memory(self.process)
                self.memory, self.workers = max(self.memory, everything), max(self.workers, workers)
            if stats["ok"] >= self.calls:
                return


def _tree(process: psutil.Process) -> list[psutil.Process]:
    """Ray's daemons leave their parent, so the session counts as well."""
    with contextlib.suppress(psutil.Error):
        session = os.getsid(process.pid)
        own = {process.pid, *(child.pid for child in process.children(recursive=True))}
        if session != os.getsid(0):
            own |= {p.pid for p in psutil.process_iter() if _session(p.pid) == session}
        return [psutil.Process(pid) for pid in own]
    return []


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def _tree_cpu_s(process: psutil.Process) -> dict[int, float]:
    """User and system time by process."""
    found = {}
    for one in _tree(process):
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            found[one.pid] = times.user + times.system
    return found


def _tree_memory(process: psutil.Process) -> tuple[int, int]:
    """Of the whole tree, and of Ray Data's workers in it."""
    total = workers = 0
    for one in _tree(process):
        with contextlib.suppress(psutil.Error):
            size = one.memory_full_info().pss
            total += size
            workers += size if "MapWorker" in " ".join(one.cmdline()) else 0
    return total, workers
