"""Trainers on several processes of one machine, without Ray: started once for many runs."""

import os
import socket
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch.multiprocessing as mp

from cp_ray.cultures import CULTURES
from cp_ray.folder import open_folder
from cp_ray.llm.embedded import load_tokenizer
from cp_ray.records import Example, Message, TrainPoint
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.data import Data, make_data

EXAMPLES = [
    Example(
        f"{culture}/e{q}/{k}", culture, "answer", f"Q{q}",
        (Message("system", "S."), Message("user", f"Is it {q}?"), Message("assistant", "Yes" if k % n else "No")),
        (), "train",
    )
    for culture, n in (("german", 4), ("greek", 2))
    for q in range(5)
    for k in range(8)
]  # fmt: skip


def make_config(base: Path, *cultures: str, learning_rate: float = 0.01, **settings: Any) -> TrainConfig:
    own: dict[str, Any] = {"learning_rate": learning_rate, "passes": 4, "batch_size": 2}
    adapters = tuple(AdapterConfig(id, (CULTURES[id],), **own) for id in cultures)
    return TrainConfig(str(base), adapters, WVS7, **{"rank": 4, "dtype": "float32", **settings})


def data_of(examples: Sequence[Example], config: TrainConfig) -> Data:
    """The rows, tokenised here."""
    return make_data(examples, config, load_tokenizer(config.base_model))


Runs = Sequence[tuple[TrainConfig, Placement, str | None, int]]
"""Of each run its configuration, its placement, a folder of checkpoints to go on from or to write to, and the step at
which it is left (0: none)."""


def on_ranks(world: int, runs: Runs) -> list[list[TrainPoint]]:
    """The points of each run."""
    context = mp.get_context("spawn")
    answers = context.SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(rank, world, port, list(runs), answers), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = answers.get()
    for process in processes:
        process.join(10 if isinstance(found, str) else 60)
        process.kill()
    assert not isinstance(found, str), found
    points: list[list[TrainPoint]] = found
    return points


class _Left(Exception):
    pass


def _rank(rank: int, world: int, port: int, runs: Runs, answers: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in given.items()})
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world)
        points = [_run(*run, rank) for run in runs]
        if rank == 0:
            answers.put(points)
    except BaseException:  # noqa: BLE001  told to the test
        answers.put(traceback.format_exc())
    dist.destroy_process_group()


def _leave(trainer: Any, weights: dict[str, Any]) -> None:
    """A whole model can be written by the first worker alone, and loaded by anybody."""
    from transformers import AutoModelForCausalLM

    from cp_ray.training.data import Learnt
    from cp_ray.training.save import save_model

    config, points = trainer.config, trainer.state.points
    with tempfile.TemporaryDirectory() as folder:
        out = open_folder(folder)
        save_model(out, trainer.base, trainer.tokenizer, config, config.adapters[0], weights, points, Learnt(1, 0))
        loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, tensor in weights.items():
        assert loaded[name].equal(tensor.to(loaded[name].dtype)), name


def _shared(learner: Any, config: TrainConfig, placement: Placement, zero: Any, *given: Any) -> Any:
    """Start the engine; by ZeRO-3 no worker had all of the base before."""
    from cp_ray.training.engine import start_engine

    for name, parameter in learner.base.named_parameters():
        if zero.stage == 3 and not name.rpartition(".")[2].startswith(("down_", "up_", "magnitude_")):
            assert parameter.numel() < parameter.ds_numel or parameter.ds_persist, name
    return start_engine(learner, config, placement, zero, *given)


def _run(config: TrainConfig, placement: Placement, folder: str | None, left: int, rank: int) -> list[TrainPoint]:
    from cp_ray.training.checkpoint import Checkpoints
    from cp_ray.training.loop import Trainer

    checkpoints = Checkpoints(open_folder(folder)) if folder else None
    state = checkpoints.latest() if checkpoints else None
    with mock.patch("cp_ray.training.loop.start_engine", _shared):
        trainer = Trainer(config, placement, data_of(EXAMPLES, config), state)

    def on_checkpoint(state: Any) -> None:
        if checkpoints is not None and left and rank == 0:
            checkpoints.write(state)
        if state.step == left:
            raise _Left

    try:
        trainer.run(lambda told: None, on_checkpoint)
        weights = trainer.weights()
        if rank == 0 and config.method == "full":
            _leave(trainer, weights["german"])
    except _Left:
        pass
    return trainer.state.points
