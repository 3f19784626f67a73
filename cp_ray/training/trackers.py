"""Where curves go while a run is under way: TensorBoard, and MLflow and Weights & Biases where they are set up."""

import hashlib
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cp_ray.errors import ConfigError
from cp_ray.llm.hub import first_line
from cp_ray.records import TrainPoint
from cp_ray.training.config import TrainConfig

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["Trackers"]

_RUNS = "runs.json"
"""Ids of the runs that MLflow and Weights & Biases were told of, so that a resumed training goes on in them."""

_log = logging.getLogger("cp_ray.training")


class Trackers:
    """Curves of every adapter: loss, validation loss, learning rate.

    MLflow is told if it is installed and `MLFLOW_TRACKING_URI` is set, Weights & Biases if it is installed and
    `WANDB_API_KEY` or `WANDB_MODE` is set: being installed alone sends nothing anywhere. A training that is resumed
    goes on in the same run there.
    """

    def __init__(self, folder: "Folder | None", config: TrainConfig, step: int) -> None:
        """Take what entering opens.

        Args:
            folder: for TensorBoard's files; None: this worker tells nobody anything.
            config: of the run.
            step: steps done before; what was told of later ones counts no more.
        """
        self.folder, self.config, self.step = folder, config, step
        self.writer: Any = None
        self.mlflow: Any = None
        self.wandb: Any = None

    def __enter__(self) -> "Trackers":
        """Open them.

        Raises:
            ConfigError: MLflow takes no run, or not the one that was begun.
        """
        if self.folder is None:
            return self
        from tensorboardX import SummaryWriter

        name = "+".join(adapter.name for adapter in self.config.adapters)
        runs: dict[str, str] = json.loads(self.folder.read_text(_RUNS) or "{}")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri and importlib.util.find_spec("mlflow"):
            self._begin_mlflow(uri, name, runs)
        if (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE")) and importlib.util.find_spec("wandb"):
            self.wandb = importlib.import_module("wandb").init(
                project="cp_ray", name=name, config=asdict(self.config), id=runs.get("wandb"), resume="allow"
            )
            runs["wandb"] = self.wandb.id
        if runs:
            self.folder.write_text(_RUNS, json.dumps(runs))
        self.local = tempfile.TemporaryDirectory(prefix="cp_ray-tensorboard-")
        self.writer = SummaryWriter(self.local.name, purge_step=self.step + 1 if self.step else None)
        return self

    def _begin_mlflow(self, uri: str, name: str, runs: dict[str, str]) -> None:
        """Go on in the run that this server was told of, or begin one, and note which."""
        server = f"mlflow {hashlib.sha256(uri.encode()).hexdigest()[:16]}"  # the address may hold a password
        self.mlflow = importlib.import_module("mlflow")
        failed: type[Exception] = importlib.import_module("mlflow.exceptions").MlflowException
        try:
            begun = self.mlflow.start_run(run_id=runs.get(server), run_name=name)
        except failed as error:
            why = first_line(error).replace(uri, "the server")
            raise ConfigError(
                f"MLFLOW_TRACKING_URI: no run can be told of there ({why}); start the server, remove {_RUNS} in "
                "tensorboard of this training's step if its run was deleted, or unset the variable"
            ) from error
        if server not in runs:
            self.mlflow.log_params({key: str(value)[:500] for key, value in asdict(self.config).items()})
        runs[server] = begun.info.run_id

    def log(self, points: Sequence[TrainPoint]) -> None:
        """Tell of a step: a point for each adapter that took part."""
        if self.writer is None:
            return
        for point in points:
            values = {"loss": point.loss, "learning_rate": point.learning_rate, "validation": point.validation}
            told = {f"{point.model}/{name}": value for name, value in values.items() if value is not None}
            for name, value in told.items():
                self.writer.add_scalar(name, value, point.step)
            if self.mlflow is not None:
                self.mlflow.log_metrics(told, step=point.step)
            if self.wandb is not None:
                self.wandb.log(told, step=point.step)

    def flush(self) -> None:
        """Let others see what was told so far."""
        if self.writer is None or self.folder is None:
            return
        import pyarrow.fs as pafs

        try:
            self.writer.flush()
            self.folder.filesystem.create_dir(self.folder.path, recursive=True)
            pafs.copy_files(self.local.name, self.folder.path, destination_filesystem=self.folder.filesystem)
        except OSError as error:  # no reason to end a training, whose checkpoints say it themselves
            _log.warning("%s: the curves cannot be written (%s)", self.folder.uri, error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is None:
            return
        self.writer.close()
        self.flush()
        self.local.cleanup()
        if self.mlflow is not None:
            self.mlflow.end_run("FINISHED" if error is None else "FAILED")
        if self.wandb is not None:
            self.wandb.finish(exit_code=int(error is not None))
