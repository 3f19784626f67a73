"""The same recipe, done in this process and submitted to a cluster of two nodes with `ray job submit`, is the same."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cp_ray.pipeline import Run
from cp_ray.recipe import load_recipe
from cp_ray.records import Dialogue, Example, Opinion, Prediction, Score, Seed
from tests.conftest import free_port
from tests.doing import do_recipe
from tests.tiny import make_base

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).parent / "ray")
KINDS = {"seeds": Seed, "dialogue": Dialogue, "extract": Opinion, "verify": Opinion, "dedup": Opinion,
         "examples": Example, "predict": Prediction, "evaluate": Score}  # fmt: skip


KEY = "sk-a-key-that-nobody-may-ever-read-0b9f4c2d"

SECOND_NODE = """
import sys
from ray._private.node import Node
from ray._private.parameter import RayParams
address, folder = sys.argv[1:]
Node(RayParams(gcs_address=address, node_ip_address="127.0.0.1", num_cpus=2, temp_dir=folder),
     head=False, shutdown_at_exit=False, spawn_reaper=False)
"""
"""`ray start --address` refuses to where Ray listens on loopback alone. The folder is not the head's: each node deletes
the files of a job where no process of its own needs them any more."""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """A Ray head without CPUs, as in cluster.yaml, and a node with two; gives the environment that reaches it, and the
    folder of both.

    What is to reach the workers stands in the environment that they are started with.
    """
    gcs, dashboard = free_port(), free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    clean["RAY_AUTH_MODE"] = "disabled"
    clean["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: listen on loopback alone
    clean["OPENAI_API_KEY"] = KEY
    # Ray's sockets need a short path.
    with _short_folder() as folder:
        try:
            subprocess.run(
                [RAY, "start", "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                 "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1", "--num-cpus=0",
                 f"--temp-dir={folder}/head", "--disable-usage-stats"],
                env=clean, check=True, capture_output=True,
            )  # fmt: skip
            subprocess.run(
                [sys.executable, "-c", SECOND_NODE, f"127.0.0.1:{gcs}", f"{folder}/node"],
                env=clean, check=True, capture_output=True,
            )  # fmt: skip
            yield {**clean, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}, Path(folder)
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


def log_at_the_end(job: str, env: dict[str, str]) -> str:
    """A job's log once it is over: on a busy machine the stream that `submit` follows may break off before."""

    def told(*arguments: str) -> str:
        return subprocess.run([RAY, "job", *arguments, job], env=env, check=True, capture_output=True, text=True).stdout

    while "Status for job" in told("status"):  # of one that is pending or runs
        time.sleep(1)
    return told("logs")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_job_gives_the_same_rows_and_scores_and_tells_no_key(
    ray_cluster: None, scripted_server: Any, tmp_path: Path, head: tuple[dict[str, str], Path]
) -> None:
    env, sessions = head
    options = [
        "--teacher-model", "scripted", "--cultures", "german", "--dialogues", "1",
        "--rounds", "1", "--answers", "4", "--passes", "1", "--questions", "2", "--heldout", "2", "--workers", "1",
        "--base-model", str(make_base(tmp_path / "base", layers=10, context=4096)),
    ]  # fmt: skip
    direct, job = tmp_path / "direct", tmp_path / "job"
    do_recipe(
        load_recipe(str(ROOT / "jobs" / "demo.py")),
        direct,
        "evaluate",
        ["--teacher-url", scripted_server().url, *options],
    )
    submitted = subprocess.run(
        [RAY, "job", "submit", "--submission-id", "demo", "--working-dir", ".", "--",
         sys.executable, "jobs/demo.py", "--root", str(job), "--until", "evaluate",
         "--teacher-url", scripted_server(key=KEY).url, *options],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    log = log_at_the_end("demo", env)
    assert re.search(r"\] evaluate +\d+ rows", log), f"progress stands in the job's log: {log[-3000:]}"
    assert rows_of(job) == rows_of(direct)
    assert KEY not in submitted.stdout + submitted.stderr + log
    # Manifests, the ledger, rows; Ray's logs of the head, of every worker and of the job.
    written = [file for folder in (direct, job, sessions) for file in folder.rglob("*") if file.is_file()]
    assert any("job-driver" in file.name for file in written)
    assert [str(file) for file in written if KEY.encode() in file.read_bytes()] == []
