"""A node of a cluster is gone in mid-run; benchmarks/node_loss.py does it to every stage."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.lost_node import IN_FLIGHT, ROWS, TURNS
from tests.test_rollout import count

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(900)
def test_a_run_outlives_the_loss_of_a_node(scripted_server: Any, tmp_path: Path) -> None:
    server = scripted_server(count, latency_s=0.1)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.lost_node", server.url, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "a node is gone" in ended.stderr
    made = json.loads(ended.stdout.splitlines()[-1])
    assert made == [[f"r{k:03d}", f"item {k}-{2 * TURNS - 1}"] for k in range(ROWS)]
    asked = server.stats()["requests"]
    assert len(asked) == ROWS * TURNS
    # What its workers had under way, and answers that were on their way to the disk.
    assert sum(n - 1 for n in asked.values()) <= 4 * (IN_FLIGHT + IN_FLIGHT // 8 + 2)
