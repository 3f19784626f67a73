"""A driver of a rollout on a cluster of two nodes: `python -m tests.chaos.rolled_out URL FOLDER`.

Says which processes the nodes are, then rolls out and writes the rows.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IN_FLIGHT, ROWS = 16, 120


def main(url: str, folder: str) -> None:
    # Read by Ray when it is first imported: listen on loopback alone, on Linux too; miss a node soon.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_health_check_period_ms": "500"}
    import ray
    from ray.cluster_utils import Cluster

    from cp_ray.arrow import to_table
    from cp_ray.llm.door import Door, Target
    from cp_ray.records import Prediction
    from cp_ray.rollout import rollout
    from tests.test_rollout import Config, count_up, rows

    local: dict[str, Any] = {"node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=local | {"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20, **local) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    print(*[node.all_processes["raylet"][0].process.pid for node in nodes], flush=True)
    door = Door((Target(url, "scripted"),), folder, "test", IN_FLIGHT // 4)
    given = ray.data.from_arrow(to_table(rows(ROWS), Prediction)).repartition(4)
    made = rollout(given, count_up, Config(3), door, rows_in=Prediction, rows_out=Prediction, workers=4).materialize()
    pq.write_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Path(folder) / "rows.parquet")
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
