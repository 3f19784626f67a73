"""SIGKILL at any moment: the run goes on, nothing is paid for twice, no row is lost or doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cp_ray.pipeline import Run
from cp_ray.recipe import load_recipe
from cp_ray.records import Candidate, Dialogue, Opinion, Seed
from tests.doing import do_recipe

ROOT = Path(__file__).parent.parent.parent
UNTIL = "verify"
"""No later step asks the teacher."""
KILLS = 2
"""benchmarks/kills.py has twenty of each kind."""


def options(server: Any) -> list[str]:
    return ["--teacher-url", server.url, "--teacher-model", "scripted", "--dialogues", "6", "--rounds", "3"]


def command(server: Any, root: Path) -> list[str]:
    return [sys.executable, "jobs/demo.py", "--root", str(root), "--until", UNTIL, *options(server)]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """The driver and all that it started: they are one process group of their own, Ray's daemons included."""
    children = subprocess.run(["ps", "-e", "-o", "pid=,sid="], capture_output=True, text=True, check=True).stdout
    own = [int(pid) for pid, sid in (line.split() for line in children.splitlines()) if int(sid) == process.pid]
    for pid in own:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


KINDS = {"seeds": Seed, "candidates": Candidate, "dialogue": Dialogue, "extract": Opinion, "verify": Opinion}


def rows_of(root: Path) -> dict[str, list[Any]]:
    return {m.name: f.read(KINDS[m.name]) for f in Run(str(root)).done() if (m := f.manifest()) is not None}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_killed_run_goes_on_where_it_was(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    undisturbed = scripted_server()
    do_recipe(load_recipe(str(ROOT / "jobs" / "demo.py")), tmp_path / "whole", UNTIL, options(undisturbed))
    wanted = rows_of(tmp_path / "whole")
    assert wanted.keys() == KINDS.keys()
    calls = undisturbed.stats()["calls"]

    server, rng = scripted_server(latency_s=0.05), random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(server, tmp_path / "cut"), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
        )
        before = server.stats()["calls"]
        deadline = time.monotonic() + 120
        # Some way into its calls, wherever that is; one of the kills falls between them.
        goal = before + rng.choice([1, calls // 8, calls // 4, calls // 3])
        while server.stats()["calls"] < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        kill_tree(process)
    subprocess.run(command(server, tmp_path / "cut"), cwd=ROOT, check=True, capture_output=True)

    assert rows_of(tmp_path / "cut") == wanted
    for name, rows in wanted.items():
        assert set(Counter(row.id for row in rows).values()) == {1}, name
    repeated = sum(n - 1 for n in server.stats()["requests"].values())
    # A record has one call under way: twelve at most in the dialogues, but an opinion each where these are judged.
    in_flight = KILLS * len(wanted["verify"])
    assert repeated <= in_flight
    assert server.stats()["calls"] - repeated == calls


def test_a_driver_killed_at_and_in_each_step_leaves_the_finished_ones_alone(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.killed_driver", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    names = ended.stdout.split()
    assert len(names) >= 15
    # Each was begun twice: by the driver that was killed in it, and by the next.
    assert (tmp_path / "begun").read_text().split() == [name for name in names for _ in range(2)]
