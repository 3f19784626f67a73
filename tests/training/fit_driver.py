"""A training run with a Ray of its own, to be killed as a whole: `python -m tests.training.fit_driver BASE OUT MARKER`.

The first time that it comes to its fifth step it leaves the marker and waits.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cp_ray.folder import open_folder
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.fit import fit
from tests.training.ranks import EXAMPLES, make_config

PLACEMENT = Placement(2, checkpoint_every=3)


def config(base: Path) -> TrainConfig:
    made = make_config(base, "german", "greek", method="dora", validation=0.2, validate_every=2)
    return replace(made, adapters=tuple(replace(adapter, warmup=0.25) for adapter in made.adapters))


@dataclass
class Halt:
    marker: Path

    def step(self, done: int, total: int, **latest: float) -> None:
        with self.marker.with_suffix(".steps").open("a") as steps:
            steps.write(f"{done}\n")
        if done == 5 and not self.marker.exists():
            self.marker.touch()
            time.sleep(600)


def main() -> None:
    import ray

    base, out, marker = (Path(given) for given in sys.argv[1:])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=tempfile.mkdtemp(prefix="fit-"))
    # Often enough for the first ones to have been dropped.
    fit(config(base), replace(PLACEMENT, checkpoint_every=1), EXAMPLES, open_folder(str(out)), progress=Halt(marker))


if __name__ == "__main__":
    main()
