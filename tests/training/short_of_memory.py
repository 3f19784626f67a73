"""Trains on a Ray that has little memory, and more than that is taken in mid-run; prints what comes of it.

python -m tests.training.short_of_memory FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from cp_ray.folder import open_folder
from cp_ray.rollout import cause_of
from cp_ray.training.config import Placement
from cp_ray.training.fit import fit
from tests.tiny import make_base
from tests.training.ranks import EXAMPLES, make_config

SHARE = 0.1
"""Of the memory that Ray sees, a container's if it is in one, beyond what is in use now."""
MIB = 2**20


class Eater:
    """A progress that takes half as much again as there is."""

    def step(self, *_: Any, **__: Any) -> None:
        chunk = 64 * MIB
        self.eaten = [bytearray(os.urandom(MIB)) * 64 for _ in range(int(1.5 * SHARE * get_system_memory() / chunk))]


def main(folder: Path) -> None:
    base, total, memory = make_base(folder / "base"), get_system_memory(), psutil.virtual_memory()
    contained = total < memory.total
    used = get_used_memory() if contained else memory.total - memory.available  # type: ignore[no-untyped-call]
    ray.init(
        address="local", _node_ip_address="127.0.0.1", num_cpus=2, object_store_memory=80 * MIB,
        include_dashboard=False, log_to_driver=False, logging_level=40,
        _system_config={
            "memory_usage_threshold": round(used / total + SHARE, 3),
            "memory_monitor_refresh_ms": 100,
        },
    )  # fmt: skip
    try:
        fit(make_config(base, "german"), Placement(1), EXAMPLES, open_folder(str(folder / "out")), progress=Eater())
    except Exception as error:  # noqa: BLE001  told to the test
        print(repr(cause_of(error) or error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
