"""A worker and the limiter are killed in mid-run: the run goes on by itself, no row is lost or doubled."""

import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.llm.control import Rules, control
from cp_ray.llm.door import Door, Target
from cp_ray.llm.limiter import Limits
from cp_ray.records import Prediction
from cp_ray.rollout import rollout
from tests.processes import ray_processes
from tests.test_rollout import Config, count, count_up, rows

IN_FLIGHT = 16


def kill(title: str) -> bool:
    """The first of our Ray's processes with this in its title."""
    found = ray_processes(title)
    for process in found[:1]:
        process.kill()
    return bool(found)


def test_a_worker_and_the_limiter_are_replaced(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    import ray
    import ray.data

    server = scripted_server(count, latency_s=0.1)
    killed: list[str] = []

    def assassin() -> None:
        for title, calls in (("MapWorker", 40), ("Limiter", 100)):
            while server.stats()["calls"] < calls:
                time.sleep(0.01)
            if kill(title):
                killed.append(title)

    thread = threading.Thread(target=assassin, daemon=True)
    thread.start()
    door = Door(
        (Target(server.url, "scripted"),),
        str(tmp_path),
        "test",
        IN_FLIGHT,
        control=control(Rules()),
        limits=Limits(rpm=6000),
    )
    given = ray.data.from_arrow(to_table(rows(80), Prediction))
    made = rollout(given, count_up, Config(3), door, rows_in=Prediction, rows_out=Prediction).materialize()
    found = from_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Prediction)
    thread.join(timeout=10)
    assert killed == ["MapWorker", "Limiter"]
    assert sorted((p.id, p.output) for p in found) == [(f"r{k:03d}", f"item {k}-5") for k in range(80)]
    repeated = sum(n - 1 for n in server.stats()["requests"].values())
    # The calls under way, and the answers that were on their way to the disk.
    assert repeated <= IN_FLIGHT + IN_FLIGHT // 8 + 2
    assert len(server.stats()["requests"]) == 240
