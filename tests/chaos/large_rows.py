"""A driver whose step has more rows under way than Ray's object store holds: `python -m tests.chaos.large_rows ROOT`.

Prints which steps it did; where the rows do not fit, what it is told.
"""

import sys
from dataclasses import dataclass
from typing import Any

from cp_ray.errors import CpRayError
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, execute

STORE, ROWS, BYTES = 80 * 2**20, 150, 2**20


@dataclass(frozen=True)
class Large:
    id: str
    text: str


@dataclass(frozen=True)
class Config:
    """Of a step whose result hangs on nothing."""


def many(folder: Folder, given: Any) -> Any:
    import ray.data

    def large(batch: dict[str, Any]) -> dict[str, Any]:
        return {"id": [f"{k:04d}" for k in batch["id"]], "text": ["x" * BYTES for _ in batch["id"]]}

    return ray.data.range(ROWS, override_num_blocks=15).map_batches(large, batch_size=10)


def few(folder: Folder, given: Any) -> Any:
    import pyarrow as pa

    return pa.table({"id": ["1"], "text": ["x"]})


def main(root: str) -> None:
    import ray

    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, object_store_memory=STORE,
             include_dashboard=False, log_to_driver=False)  # fmt: skip
    steps = [Step("few", Config(), few, rows=Large), Step("many", Config(), many, rows=Large)]
    done = list[str]()

    def on_done(step: Step, _: Any, *, skipped: bool) -> None:
        if not skipped:
            done.append(step.name)

    try:
        execute(Run(root), steps, on_start=lambda _: None, on_done=on_done)
    except CpRayError as error:
        print(f"{type(error).__name__}: {error}")
    print("did", *done)


if __name__ == "__main__":
    main(*sys.argv[1:])
