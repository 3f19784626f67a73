"""One training run on Ray Train: workers start, train, keep checkpoints, and leave adapter folders."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.train import UserCallback

from cp_ray.arrow import from_table, to_table
from cp_ray.cluster import check_room
from cp_ray.errors import CpRayError
from cp_ray.records import Example, TrainPoint
from cp_ray.rollout import cause_of
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.data import Data, Prompt, divide, make_prompts, tokenise
from cp_ray.training.rows import Held, Stored, heads

if TYPE_CHECKING:
    from cp_ray.folder import Folder
    from cp_ray.training.checkpoint import State
    from cp_ray.training.loop import Told, Trainer

__all__ = ["fit"]

_CHECKPOINTS = "checkpoints"
_NOTES = "checkpoint_manager_snapshot.json"
"""Ray Train's own, of which checkpoints there are."""

_BLOCK = 1024
"""Prompts that are tokenised in one task: a second or two."""


def fit(
    config: TrainConfig, placement: Placement, examples: Sequence[Example], out: "Folder", *, progress: Any = None
) -> None:
    """Train, and leave in `out`: `adapters/<name>` (PEFT), `log/rows` (TrainPoint), `tensorboard`, and `run.json`.

    What an earlier attempt left in `out` is gone on with: its last checkpoint. Workers that die are replaced, and go on
    in the same way.

    Args:
        config: what to train.
        placement: on how many workers.
        examples: of all cultures; each adapter takes its own.
        out: a folder on any pyarrow filesystem that the workers reach.
        progress: a `cp_ray.progress.Progress`, told of every step.

    Raises:
        PlacementError: the cluster has fewer CPUs or GPUs than workers, or there is not enough memory.
        CpRayError: what a worker raised.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if out.read_text("run.json") is not None:  # which is written last: only the end was cut off
        (out / _CHECKPOINTS).clear()
        return
    check_room("workers: training", {"GPU" if placement.use_gpu else "CPU": placement.workers})
    prompts = make_prompts(examples, config)
    # A few are tokenised by each worker sooner than by a process that is started for it.
    data = prompts if len(prompts) <= _BLOCK else divide(*_tokenised(prompts, config), config)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # Ray's minute is short for machines that an autoscaler brings, and for busy ones.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
    callbacks: list[Any] = [_GiveUp(placement)]  # Ray's type names Tune's callbacks
    out.filesystem.create_dir(out.path, recursive=True)
    _forget_notes(out / _CHECKPOINTS)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": config, "placement": placement, "data": ray.put(data), "out": out, "progress": progress,
        },
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.use_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if placement.use_gpu else {"CPU": 1},
        ),
        run_config=RunConfig(
            # Ray's own notes stand beside our checkpoints: it takes none that lie elsewhere.
            name=_CHECKPOINTS,
            storage_path=out.path,
            storage_filesystem=out.filesystem,
            failure_config=FailureConfig(max_failures=placement.max_failures),
            callbacks=callbacks,
        ),
    )  # fmt: skip
    _run(trainer, placement)
    (out / _CHECKPOINTS).clear()


def _run(trainer: Any, placement: Placement) -> None:
    """Fit. A machine that is short of memory may lose Train's own actors before they can say so."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except (RayError, TrainingFailedError) as error:
        if _short_of_memory(error):
            from cp_ray.training.memory import too_much

            raise too_much(placement) from error
        raise


class _GiveUp(UserCallback):
    """Workers that died are replaced; an error of ours or too little memory comes again, and ends the run."""

    def __init__(self, placement: Placement) -> None:
        self.placement, self.killed = placement, False

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = cause_of(error)
            if cause is not None:
                raise cause
        if any(map(_short_of_memory, worker_exceptions.values())):
            if self.killed:  # the first time somebody else may have filled the machine
                from cp_ray.training.memory import too_much

                raise too_much(self.placement)
            self.killed = True


def _short_of_memory(error: Exception) -> bool:
    """Whether Ray has killed a process because its machine was short of memory; Train tells it in words alone."""
    return "running low on memory" in str(error)


def _forget_notes(checkpoints: "Folder") -> None:
    """We drop checkpoints and Ray is not told: it would refuse to go on from notes of some that are gone."""
    if checkpoints.read_text(_NOTES) is not None:
        checkpoints.filesystem.delete_file((checkpoints / _NOTES).path)


def _tokenised(prompts: Sequence[Prompt], config: TrainConfig) -> tuple[pa.Table, Stored]:
    """Blocks of `Tokenised`, made on all of the cluster and left there, and the heads of their rows."""
    import ray

    blocks = [to_table(prompts[k : k + _BLOCK], Prompt) for k in range(0, len(prompts), _BLOCK)]
    task: Any = _tokenise_block  # Ray's type has no place for more arguments
    rows = ray.data.from_arrow(blocks).map_batches(task, fn_args=(config,), batch_size=None, batch_format="pyarrow")
    refs = rows.to_arrow_refs()
    known = ray.remote(heads)
    return pa.concat_tables(ray.get([known.remote(ref, k) for k, ref in enumerate(refs)])), Stored(refs)


def _tokenise_block(block: pa.Table, config: TrainConfig) -> pa.Table:
    from cp_ray.llm.embedded import load_tokenizer

    return tokenise(from_table(block, Prompt), load_tokenizer(config.base_model), config)


def _work(given: dict[str, Any]) -> None:
    """One worker."""
    import ray
    import torch
    from ray import train

    from cp_ray.llm.embedded import load_tokenizer
    from cp_ray.training.checkpoint import Checkpoints
    from cp_ray.training.loop import Trainer
    from cp_ray.training.memory import short_of_memory
    from cp_ray.training.trackers import Trackers

    config: TrainConfig = given["config"]
    placement: Placement = given["placement"]
    out: Folder = given["out"]
    if not placement.use_gpu:
        torch.set_num_threads(1)
    first = train.get_context().get_world_rank() == 0
    checkpoints = Checkpoints(out / _CHECKPOINTS)

    def on_step(told: "Told") -> None:
        if not first:
            return
        trackers.log(told.points)
        if given["progress"] is not None:
            rate = {"tokens/s": told.tokens_per_s, "GB": told.gb}
            given["progress"].step(told.step, told.steps, loss=told.loss, **rate)

    def on_checkpoint(state: "State") -> None:
        # Written by ourselves, so that it is there before Ray knows of it; Ray is told where.
        error = None
        folder = out / _CHECKPOINTS / f"{state.step:08d}"
        if first:
            try:
                folder = checkpoints.write(state)
            except CpRayError as raised:
                error = raised
        told = [error]
        torch.distributed.broadcast_object_list(told)
        if told[0] is not None:
            raise told[0]
        trackers.flush()
        train.report(
            {"step": state.step, "loss": state.points[-1].loss},
            checkpoint=train.Checkpoint(folder.path, folder.filesystem) if first else None,
            checkpoint_upload_mode=train.CheckpointUploadMode.NO_UPLOAD,
        )

    state = checkpoints.latest()
    try:
        data = ray.get(given["data"])
        if not isinstance(data, Data):
            block = tokenise(data, load_tokenizer(config.base_model), config)
            data = divide(heads(block, 0), Held((block,)), config)
        trainer = Trainer(config, placement, data, state)
        with Trackers(out / "tensorboard" if first else None, config, trainer.state.step) as trackers:
            trainer.run(on_step, on_checkpoint)
        weights = trainer.weights()
    except Exception as error:
        found = short_of_memory(error, placement)
        if found is None:
            raise
        raise found from error
    if first:
        _leave(out, config, trainer, weights)
    train.report({"step": trainer.state.step})


def _leave(out: "Folder", config: TrainConfig, trainer: "Trainer", weights: dict[str, Any]) -> None:
    """Write what the run has come to."""
    import pyarrow.parquet as pq

    from cp_ray.training.save import save_adapter, save_model

    for adapter in config.adapters:
        points = [p for p in trainer.state.points if p.model == adapter.name]
        own, learnt = weights[adapter.name], trainer.rows.learnt(config, adapter.name)
        if trainer.learner.adapters is None:
            save_model(
                out / "models" / adapter.name, trainer.base, trainer.tokenizer, config, adapter, own, points, learnt
            )
        else:
            save_adapter(
                out / "adapters" / adapter.name, trainer.learner.adapters, config, adapter, own, points, learnt
            )
    log = out / "log" / "rows"
    log.filesystem.create_dir(log.path, recursive=True)
    pq.write_table(to_table(trainer.state.points, TrainPoint), f"{log.path}/0.parquet", filesystem=log.filesystem)
    out.write_text("run.json", json.dumps(asdict(trainer.summary()), indent=1))
