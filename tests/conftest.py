"""What tests share: one Ray, the embedded model, a scripted teacher over real HTTP.

The suite runs in two processes (pytest-xdist), each with a Ray of its own; a file is run by one of them, so what its
tests share is made once. A file or a test by name runs in this process, where output and debuggers work.
"""

import contextlib
import json
import os
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from cp_ray.cluster import UNREAD

# The suite draws the same cases every time, and none is timed: a failure there is the change's own. New cases are
# looked for with HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=3000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


# As many threads as the suite has cores for each process; what they start takes it over.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A process of Ray Train's that watches for machines about to be taken away; it would be started for every training.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

# As in a cluster of our own: on loopback alone, whatever address Ray is given.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
for _name, _value in UNREAD.items():
    os.environ.setdefault(_name, _value)

_DISTRIBUTED = "PYTEST_XDIST_WORKER" in os.environ


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for folders, none for a file or a test."""
    named = config.option.keyword or any("::" in path or path.endswith(".py") for path in config.args)
    return 0 if named else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests, which allow themselves more time, go first, or one of them would be left at the end."""
    if _DISTRIBUTED:
        allowed = Counter[Path]()
        for item in items:
            marker = item.get_closest_marker("timeout")
            allowed[item.path] = max(allowed[item.path], marker.args[0] if marker else 0)
        items.sort(key=lambda item: -allowed[item.path])


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from cp_ray.cluster import quiet

    with contextlib.ExitStack() as stack:
        import ray

        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=256 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=40,
            _system_config={"metrics_report_interval_ms": 1000},  # a test waits for them
        )
        stack.callback(ray.shutdown)
        quiet()
        yield


@pytest.fixture(scope="session")
def embedded_base() -> Path:
    from cp_ray.llm.embedded import smollm2

    return smollm2()


def free_port() -> int:
    """On loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A FastAPI application on loopback, in a thread."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self.port = free_port()
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def __enter__(self) -> "Server":
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)


@pytest.fixture
def scripted_server() -> Iterator[Any]:
    """Start scripted teachers: call it with `scripted_app`'s arguments, get a `Server`."""
    from cp_ray.llm.plausible import plausible
    from cp_ray.llm.scripted import scripted_app

    with contextlib.ExitStack() as stack:

        def start(answer: Any = plausible, **options: Any) -> Server:
            return stack.enter_context(Server(scripted_app(answer, **options)))

        yield start
