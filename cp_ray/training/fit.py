"""One training run on Ray Train: workers start, train, and leave an adapter folder."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_ray.errors import PlacementError
from cp_ray.records import Example, TrainPoint, to_table
from cp_ray.training.card import model_card
from cp_ray.training.config import Placement, TrainConfig

if TYPE_CHECKING:
    from cp_ray.pipeline import Folder

__all__ = ["fit"]


def fit(
    config: TrainConfig, placement: Placement, examples: Sequence[Example], out: "Folder", *, progress: Any = None
) -> None:
    """Train an adapter and leave it in `out`: `adapter/` (PEFT) and `log/rows` (a TrainPoint a step).

    Args:
        config: what to train.
        placement: on how many workers.
        examples: of one culture.
        out: a folder on any pyarrow filesystem that the workers reach.
        progress: a `cp_ray.progress.Progress`, told of every step.

    Raises:
        PlacementError: the cluster has fewer CPUs or GPUs than workers.
        CpRayError: what a worker raised.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    _check_room(placement)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="cp_ray-train-") as storage:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "config": config, "placement": placement, "examples": ray.put(list(examples)), "out": out,
                "progress": progress,
            },
            scaling_config=ScalingConfig(
                num_workers=placement.workers,
                use_gpu=placement.use_gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if placement.use_gpu else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=f"train-{config.culture.id}", storage_path=storage, failure_config=FailureConfig(max_failures=0)
            ),
        )  # fmt: skip
        trainer.fit()


def _check_room(placement: Placement) -> None:
    import ray

    kind = "GPU" if placement.use_gpu else "CPU"
    resources: Any = ray.cluster_resources  # untyped in Ray
    there = int(resources().get(kind, 0))
    if there < placement.workers:
        raise PlacementError(
            f"workers: training asks for {placement.workers} {kind}s and the cluster has {there}; "
            "give fewer --workers or add nodes"
        )


def _work(given: dict[str, Any]) -> None:
    """One worker."""
    import ray
    import torch
    from ray import train

    from cp_ray.training.loop import train_adapter

    config: TrainConfig = given["config"]
    if not given["placement"].use_gpu:
        torch.set_num_threads(1)
    first = train.get_context().get_world_rank() == 0
    progress = given["progress"] if first else None

    def on_step(done: int, total: int, loss: float) -> None:
        if progress is not None:
            progress.step(done, total, loss=loss)

    examples = ray.get(given["examples"])
    model, points = train_adapter(config, given["placement"], examples, on_step)
    if first:
        _save(model, points, config, given["out"])
    train.report({"loss": points[-1].loss})


def _save(model: Any, points: Sequence[TrainPoint], config: TrainConfig, out: "Folder") -> None:
    import pyarrow.fs as pafs
    import pyarrow.parquet as pq

    adapter, log = out / "adapter", out / "log" / "rows"
    with tempfile.TemporaryDirectory(prefix="cp_ray-adapter-") as local:
        # The name that others know the base by; the folder it was loaded from means nothing elsewhere.
        model.peft_config["default"].base_model_name_or_path = config.hub_name
        model.save_pretrained(local, save_embedding_layers=False)
        Path(local, "README.md").write_text(model_card(config, points), encoding="utf-8")
        adapter.filesystem.create_dir(adapter.path, recursive=True)
        pafs.copy_files(local, adapter.path, destination_filesystem=adapter.filesystem)
    log.filesystem.create_dir(log.path, recursive=True)
    pq.write_table(to_table(points, TrainPoint), f"{log.path}/0.parquet", filesystem=log.filesystem)
