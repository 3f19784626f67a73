"""What a run needs to go on: weights and moments of every adapter, whole, so that any number of workers can take over.

A checkpoint is a folder: `state.safetensors`, `points.parquet`, and last `state.json`, without which it does not
count. Nothing in it is a pickle.
"""

import contextlib
import errno
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cp_ray.arrow import from_table, to_table
from cp_ray.errors import RunFolderError
from cp_ray.records import TrainPoint

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["Best", "Checkpoints", "State"]

_log = logging.getLogger("cp_ray.training")

_KEPT = 2
"""The last checkpoint, and the one before: it may be read while the last is written."""


@dataclass(slots=True)
class Best:
    """Of an adapter: the smallest validation loss so far, and the weights that had it."""

    loss: float
    step: int
    weights: dict[str, Tensor]
    since: int = 0
    """Validations since."""


@dataclass(slots=True)
class State:
    """Where a run is; `tensors` by adapter, parameter and key."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent on them."""
    updates: dict[str, int] = field(default_factory=dict)
    """Of each adapter."""
    stopped: list[str] = field(default_factory=list)
    """Adapters that have stopped early."""
    tensors: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)
    best: dict[str, Best] = field(default_factory=dict)
    points: list[TrainPoint] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of a run, in a folder on any pyarrow filesystem."""

    def __init__(self, folder: "Folder") -> None:
        self.folder = folder

    def write(self, state: State) -> "Folder":
        """Keep a state, and drop what is older than the one before it.

        Raises:
            RunFolderError: there is no room; what is there already stays good.
        """
        target = self.folder / f"{state.step:08d}"
        try:
            target.clear()
            target.filesystem.create_dir(target.path, recursive=True)
            _write(target, "state.safetensors", save(_flat(state)))
            pq.write_table(
                to_table(state.points, TrainPoint), f"{target.path}/points.parquet", filesystem=target.filesystem
            )
            target.write_text("state.json", json.dumps(_plain(state)))
        except OSError as error:
            with contextlib.suppress(OSError):  # half of it would keep the disk full
                target.clear()
            why = "no space left" if error.errno == errno.ENOSPC else str(error)
            raise RunFolderError(
                f"root: a checkpoint of step {state.step} cannot be written to {target.uri} ({why}); make room, and "
                "the run goes on from the checkpoint before"
            ) from error
        # What is said to be of later steps was damaged, or the run would have gone on from it.
        names = self._names()
        now = names.index(f"{state.step:08d}")
        for name in (*names[: max(0, now + 1 - _KEPT)], *names[now + 1 :]):
            (self.folder / name).clear()
        return target

    def latest(self) -> State | None:
        """The newest whole state; None: there is none. One that is damaged is told of, and the one before is taken."""
        for name in reversed(self._names()):
            try:
                found = _read(self.folder / name)
            except (FileNotFoundError, SafetensorError, ArrowInvalid, json.JSONDecodeError, KeyError) as error:
                _log.warning("%s: the checkpoint is damaged (%s) and is not used", (self.folder / name).uri, error)
                continue
            if found is not None:
                return found
        return None

    def clear(self) -> None:
        """Drop them all."""
        self.folder.clear()

    def _names(self) -> list[str]:
        selector = pafs.FileSelector(self.folder.path, allow_not_found=True)
        found = self.folder.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in found if info.base_name.isdecimal())


def _flat(state: State) -> dict[str, Tensor]:
    """Every tensor under one name; copies of its own, as safetensors wants them."""
    now = {f"now|{'|'.join(key)}": tensor for key, tensor in state.tensors.items()}
    best = {f"best|{adapter}|{name}": t for adapter, one in state.best.items() for name, t in one.weights.items()}
    return now | best


def _plain(state: State) -> dict[str, object]:
    best = {name: {"loss": one.loss, "step": one.step, "since": one.since} for name, one in state.best.items()}
    return {
        "step": state.step, "seconds": state.seconds, "updates": state.updates, "stopped": state.stopped, "best": best,
    }  # fmt: skip


def _read(folder: "Folder") -> State | None:
    text = folder.read_text("state.json")
    if text is None:
        return None
    plain = json.loads(text)
    with folder.filesystem.open_input_stream(f"{folder.path}/state.safetensors") as file:
        tensors = load(file.read())
    points = from_table(pq.read_table(f"{folder.path}/points.parquet", filesystem=folder.filesystem), TrainPoint)
    now = {_key(name): t for name, t in tensors.items() if name.startswith("now|")}
    best = {
        adapter: Best(one["loss"], one["step"], _weights(tensors, f"best|{adapter}|"), one["since"])
        for adapter, one in plain["best"].items()
    }
    return State(plain["step"], plain["seconds"], plain["updates"], plain["stopped"], now, best, points)


def _key(name: str) -> tuple[str, str, str]:
    _, adapter, parameter, key = name.split("|")
    return adapter, parameter, key


def _weights(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(folder: "Folder", name: str, data: bytes) -> None:
    with folder.filesystem.open_output_stream(f"{folder.path}/{name}") as file:
        file.write(data)
