"""A node is lost in mid-run: the other one goes on, no row is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cp_ray.arrow import from_table
from cp_ray.records import Prediction
from tests.chaos.rolled_out import IN_FLIGHT, ROWS
from tests.test_rollout import count


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_run_goes_on_without_a_node(scripted_server: Any, tmp_path: Path) -> None:
    server = scripted_server(count, latency_s=0.1)
    command = [sys.executable, "-m", "tests.chaos.rolled_out", server.url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        raylets = [int(pid) for pid in driver.stdout.readline().split()]
        while server.stats()["calls"] < ROWS and driver.poll() is None:
            time.sleep(0.01)
        os.kill(raylets[0], signal.SIGKILL)
        before = len(server.stats()["requests"])
        assert driver.wait() == 0
    found = from_table(pq.read_table(tmp_path / "rows.parquet"), Prediction)
    assert sorted((p.id, p.output) for p in found) == [(f"r{k:03d}", f"item {k}-5") for k in range(ROWS)]
    assert before < len(server.stats()["requests"]) == 3 * ROWS
    repeated = sum(n - 1 for n in server.stats()["requests"].values())
    # The calls under way, and the answers that were on their way to the disk.
    assert repeated <= IN_FLIGHT + IN_FLIGHT // 8 + 2
