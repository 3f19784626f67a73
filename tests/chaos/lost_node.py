"""A driver whose cluster loses a node in mid-run: `python -m tests.chaos.lost_node URL FOLDER`, rows on stdout."""

import json
import random
import sys
import threading
import time
import urllib.request

import pyarrow as pa

from benchmarks.node_loss import Nodes
from cp_ray.arrow import from_table, to_table
from cp_ray.llm.control import Rules, control
from cp_ray.llm.door import Door, Target
from cp_ray.progress import watched
from cp_ray.records import Prediction
from cp_ray.rollout import rollout
from cp_ray.steps.rows import dataset_of
from tests.test_rollout import Config, count_up, rows

IN_FLIGHT, ROWS, TURNS = 8, 60, 3


def main(url: str, folder: str) -> None:
    import ray

    nodes = Nodes()

    def calls() -> int:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats") as reply:
            return int(json.load(reply)["calls"])

    def strike() -> None:
        while calls() < ROWS * TURNS // 3:
            time.sleep(0.01)
        nodes.take_away("MapWorker", random.Random(0))
        print("a node is gone", file=sys.stderr)

    threading.Thread(target=strike, daemon=True).start()
    door = Door((Target(url, "scripted"),), folder, "test", IN_FLIGHT, control=control(Rules()))
    with watched("test", total=ROWS) as progress:
        given = dataset_of(to_table(rows(ROWS), Prediction), blocks=4)
        made = rollout(
            given, count_up, Config(TURNS), door, rows_in=Prediction, rows_out=Prediction, workers=4, progress=progress
        ).materialize()
    found = from_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Prediction)
    print(json.dumps(sorted((row.id, row.output) for row in found)))
    nodes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
