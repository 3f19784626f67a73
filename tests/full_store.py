"""A run with a small object store: `python -m tests.full_store FOLDER spilling|full`; what was begun, what was said.

`full`: the store cannot spill, as if the disk were full as well.
"""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.errors import CpRayError
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, execute
from cp_ray.records import Score

BLOCKS, ROWS = 8, 20_000


@dataclass(frozen=True)
class Config:
    """Of a step whose rows hang on nothing."""


def _block(batch: Any) -> pa.Table:
    """20 MB of rows."""
    row = to_table([Score("base", "g" * 1000, "survey", "emd", 0.0, 0.0, 1.0, 10)], Score)
    return pa.concat_tables([row] * ROWS).combine_chunks()


def _large(folder: Folder, inputs: Mapping[str, Folder]) -> Any:
    import ray.data

    return ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(_block, batch_format="pyarrow")


STEPS = (
    Step("small", Config(), lambda folder, inputs: to_table([], Score), rows=Score),
    Step("large", Config(), _large, rows=Score),
)


def main(root: str, how: str) -> None:
    import ray

    from cp_ray.cluster import quiet

    ray.init(
        address="local", _node_ip_address="127.0.0.1", num_cpus=2, object_store_memory=80 * 2**20,
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        _system_config={"automatic_object_spilling_enabled": how == "spilling"},
    )  # fmt: skip
    quiet()
    begun, said = list[str](), ""
    try:
        execute(Run(root), STEPS, on_start=lambda step: begun.append(step.name), on_done=lambda *_, **__: None)
    except CpRayError as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps({"begun": begun, "said": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
