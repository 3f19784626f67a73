"""The same file, run directly and submitted to a cluster with `ray job submit`, gives the same rows and scores."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cp_ray.pipeline import Run
from cp_ray.records import Dialogue, Example, Opinion, Prediction, Score, Seed

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).parent / "ray")
KINDS = {"seeds": Seed, "dialogue": Dialogue, "extract": Opinion, "verify": Opinion, "dedup": Opinion,
         "examples": Example, "predict": Prediction, "evaluate": Score}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray head on ports and in a folder of its own; gives the environment that reaches it."""
    gcs, dashboard = free_port(), free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    clean["RAY_AUTH_MODE"] = "disabled"  # loopback only
    # Ray's sockets need a short path.
    with _short_folder() as folder:
        subprocess.run(
            [RAY, "start", "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
             "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={folder}",
             "--disable-usage-stats"],
            env=clean, check=True, capture_output=True,
        )  # fmt: skip
        try:
            yield {**clean, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        finally:
            _end(lambda args: folder in args or f":{gcs}" in args)


def _end(of_ours: Callable[[str], bool]) -> None:
    """End the head's processes; some of them do not heed a polite word."""
    ours = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if of_ours(" ".join(process.cmdline())):
                ours.append(process)
    for process in ours:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(ours, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def _short_folder() -> Iterator[str]:
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rows_of(root: Path) -> dict[str, list[Any]]:
    found = {m.name: f for f in Run(str(root)).done() if (m := f.manifest()) is not None}
    return {name: found[name].read(kind) for name, kind in KINDS.items()}


@pytest.mark.timeout(600)
def test_a_job_gives_the_same_rows_and_scores(scripted_server: Any, tmp_path: Path, head: dict[str, str]) -> None:
    server = scripted_server()
    options = [
        "--teacher-url", server.url, "--teacher-model", "scripted", "--until", "evaluate", "--cultures", "german",
        "--dialogues", "1", "--rounds", "1", "--answers", "4", "--passes", "1", "--questions", "2",
    ]  # fmt: skip
    direct, job = tmp_path / "direct", tmp_path / "job"
    subprocess.run(
        [sys.executable, "jobs/demo.py", "--root", str(direct), *options], cwd=ROOT, check=True, capture_output=True
    )
    submitted = subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", "--",
         sys.executable, "jobs/demo.py", "--root", str(job), *options],
        cwd=ROOT, env=head, capture_output=True, text=True,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    assert "evaluate" in submitted.stdout, "progress stands in the job's log"
    assert rows_of(job) == rows_of(direct)
