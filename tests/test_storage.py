"""The run folder in a bucket, on a real S3 server on loopback that is slow, refuses, or is gone; and on a full disk."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from cp_ray.arrow import to_table
from cp_ray.errors import RunFolderError
from cp_ray.folder import Folder
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.ledger import Ledger, entries, join_parts
from cp_ray.pipeline import Run, Step, execute
from cp_ray.records import Score
from tests.chaos.large_rows import ROWS

ROOT = "s3://bucket/runs/one?region=us-east-1"
"""With its region, which Arrow would ask the provider for."""


@dataclass(frozen=True)
class Config:
    n: int = 2


@dataclass
class Bucket:
    """In front of an S3 server: `fault` is asked about each request for a status to refuse it with, or None."""

    server: Any
    fault: Callable[[str, str], int | None] = lambda method, path: None
    slow_s: float = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        time.sleep(self.slow_s)
        status = self.fault(environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        if status is None:
            return self.server(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code = {403: "AccessDenied", 503: "SlowDown"}[status]
        body = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
        start_response(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """One empty bucket, and an environment that reaches it."""
    made = Bucket(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, made, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    storage, _ = pafs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true&allow_bucket_deletion=true")
    storage.create_dir("bucket")
    yield made
    made.fault, made.slow_s = (lambda method, path: None), 0.0
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    storage.delete_dir("bucket")  # what it holds is the process's, not the server's
    server.shutdown()
    thread.join()


def rows(n: int) -> pa.Table:
    return to_table([Score("base", "german", "survey", "emd", k / 10, 0.0, 1.0, 10) for k in range(n)], Score)


def step(name: str = "make", n: int = 2, inputs: tuple[Step, ...] = (), **more: Any) -> Step:
    return Step(name, Config(n), more.pop("run", lambda folder, given: rows(n)), inputs, Score, **more)


def do(run: Run, *steps: Step) -> list[str]:
    """Execute, and say which steps were begun."""
    begun: list[str] = []
    execute(run, steps, on_start=lambda s: begun.append(s.name), on_done=lambda *_, **__: None)
    return begun


def test_a_run_in_a_bucket_is_done_skipped_changed_and_cleared(bucket: Bucket) -> None:
    def page(folder: Folder, given: Any) -> None:
        folder.write_text("report.html", "<p>")
        (folder / "export").write_text("a.jsonl", "{}")

    first = step("first")
    report = Step("report", Config(), page, (first,), publish=("report.html", "export"))
    assert do(Run(ROOT), first, report) == ["first", "report"]
    assert do(Run(ROOT), first, report) == []
    run = Run(ROOT)
    assert [m.name for f in run.done() if (m := f.manifest())] == ["first", "report"]
    assert run.folder(first).table().equals(rows(2))
    assert run.root.read_text("report.html") == "<p>"
    assert (run.root / "export").read_text("a.jsonl") == "{}"
    assert do(run, step("first", 3), report) == ["first"]
    run.do(first)
    assert run.folder(first).table().num_rows == 2, "done twice, there once"
    selector = pafs.FileSelector("bucket", recursive=True)
    assert not [i.path for i in run.root.filesystem.get_file_info(selector) if i.path.endswith(".part")]
    run.folder(first).clear()
    assert run.manifest(first) is None
    with pytest.raises(RunFolderError, match="not a run folder"):
        Run("s3://bucket/runs?region=us-east-1")


def test_a_write_that_is_refused_midway_leaves_the_step_to_be_done(bucket: Bucket) -> None:
    first, second = step("first"), step("second", 5, (step("first"),))
    for part in ("/second-", "/manifest.json"):
        bucket.fault = lambda method, path, part=part: 403 if method in ("PUT", "POST") and part in path else None  # type: ignore[misc]
        with pytest.raises(RunFolderError, match=r"could not be written to s3://bucket/runs/one \(AWS Error ACCESS_D"):
            do(Run(ROOT), *([first, second] if part == "/second-" else [step("third")]))
        bucket.fault = lambda method, path: None
    run = Run(ROOT)
    assert [run.manifest(s) is None for s in (first, second, step("third"))] == [False, True, True]
    assert do(run, first, second, step("third")) == ["second", "third"]
    assert run.folder(second).table().num_rows == 5


def test_large_writes_are_tried_again_in_a_storm_of_refusals(bucket: Bucket) -> None:
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 10**9, 1_500_000)

    def large(folder: Folder, given: Any) -> pa.Table:
        n = len(noise)
        alike = {name: pa.array([value] * n) for name, value in rows(1).to_pylist()[0].items()}
        return pa.table({**alike, "value": noise / 7.0})

    refused: list[str] = []

    def storm(method: str, path: str) -> int | None:
        """Every request that is new is refused once."""
        if method not in ("PUT", "POST") or f"{method} {path}" in refused:
            return None
        refused.append(f"{method} {path}")
        return 503

    bucket.fault = storm
    run, made = Run(ROOT), step("large", run=large)
    assert do(run, made) == ["large"]
    assert sum("partNumber=" in path for path in refused) >= 2, "in several parts"
    assert np.array_equal(run.folder(made).table(["value"])["value"].to_numpy(), noise / 7.0)


def test_a_slow_bucket_is_waited_for_and_one_that_is_gone_is_told(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.slow_s = 0.03
    assert do(Run(ROOT), step()) == ["make"]
    with pytest.raises(RunFolderError, match=r"root: s3://nobucket/run cannot be written \(Bucket 'nobucket'"):
        Run("s3://nobucket/run?region=us-east-1").begin()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RunFolderError, match=r"root: s3://bucket/runs/one\S* cannot be read \(.*AWS Error NETWORK"):
        Run(ROOT)


def test_answers_in_a_bucket_are_paid_once(bucket: Bucket) -> None:
    async def ask(key: str) -> tuple[Completion, bool]:
        async def call() -> Completion:
            return Completion(f"answer {key}", "stop", Usage(1, 1), 0.0, "m")

        ledger = Ledger(ROOT, "dialogue", "m")
        try:
            return await ledger.get_or_call(key * 16, call)
        finally:
            ledger.close()

    assert [asyncio.run(ask(key))[1] for key in "aabba"] == [True, False, True, False, False]
    join_parts(ROOT)
    assert sorted(entry.text for entry in entries(ROOT)) == ["answer a", "answer b"]
    assert asyncio.run(ask("a"))[1] is False


def test_a_full_disk_is_told_and_the_step_is_done_when_there_is_room(tmp_path: Path) -> None:
    full = True

    def made(folder: Folder, given: Any) -> pa.Table:
        if full:
            (Path(folder.path) / "rows").mkdir()
            (Path(folder.path) / "rows" / "0.parquet").symlink_to("/dev/full")  # what the kernel says of a full disk
        return rows(2)

    run = Run(str(tmp_path / "run"))
    with pytest.raises(RunFolderError, match=r"root: make could not be written to .* \(No space left on device\);"):
        do(run, step(run=made))
    assert run.manifest(step()) is None
    full = False
    assert do(run, step(run=made)) == ["make"]
    assert run.folder(step()).table().num_rows == 2


@pytest.mark.long
def test_a_full_object_store_is_told_and_the_run_goes_on_with_more(tmp_path: Path) -> None:
    def driven(**environment: str) -> list[str]:
        command = [sys.executable, "-m", "tests.chaos.large_rows", str(tmp_path)]
        environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on Linux too: listen on loopback alone
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    # To Ray the disk is full from a share of it on, which is 0.95 by default.
    told, did = driven(RAY_local_fs_capacity_threshold="0.0")
    assert told.startswith("PlacementError: memory: the rows of many fit neither Ray's object store ")
    assert did == "did few"
    assert driven() == ["did many"]
    assert Run(str(tmp_path)).done()[-1].table().num_rows == ROWS
