"""Curves go on where they were when a training is resumed. MLflow's and W&B's packages are stood in for."""

import json
import sys
from pathlib import Path

import pytest

from cp_ray.errors import ConfigError
from cp_ray.folder import open_folder
from cp_ray.records import TrainPoint
from cp_ray.training.trackers import Trackers
from tests.training.ranks import make_config

MLFLOW = """
import json, os, types, uuid
from mlflow import exceptions
def _told(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(["mlflow", *what]) + "\\n")
def start_run(run_id=None, run_name=None):
    global _run
    if os.environ.get("DELETED") and run_id:
        raise exceptions.MlflowException(f"Run '{run_id}' not found at {os.environ['MLFLOW_TRACKING_URI']}\\nmore")
    _run = run_id or uuid.uuid4().hex
    _told("start", _run, run_id is None, run_name)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=_run))
def log_params(params):
    _told("params", _run, sorted(params)[0])
def log_metrics(metrics, step):
    _told("metrics", _run, step, sorted(metrics))
def end_run(status):
    _told("end", _run, status)
"""

WANDB = """
import json, os, uuid
class _Run:
    def __init__(self, id): self.id = id
    def log(self, values, step): _told("log", self.id, step, sorted(values))
    def finish(self, exit_code): _told("finish", self.id, exit_code)
def _told(*what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(["wandb", *what]) + "\\n")
def init(project, name, config, id, resume):
    run = _Run(id or uuid.uuid4().hex)
    _told("init", run.id, id is None, name, resume)
    return run
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-ins were told, a line each."""
    stubs = tmp_path / "stubs"
    (stubs / "mlflow").mkdir(parents=True)
    (stubs / "mlflow" / "__init__.py").write_text(MLFLOW)
    (stubs / "mlflow" / "exceptions.py").write_text("class MlflowException(Exception): pass\n")
    (stubs / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(stubs))
    for name in ("mlflow", "mlflow.exceptions", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path / "told"


def trained(folder: Path, *steps: int) -> None:
    config = make_config(Path("base"), "german")
    with Trackers(open_folder(str(folder)), config, steps[0] - 1) as trackers:
        for step in steps:
            trackers.log([TrainPoint("german", step, 1.0, 0.1, 0, 0.0)])


def test_a_resumed_training_goes_on_in_the_run_that_was_begun(told: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    trained(folder, 1, 2)
    trained(folder, 3)
    trained(tmp_path / "another", 1)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    for name, begin, own in (("mlflow", "start", "metrics"), ("wandb", "init", "log")):
        runs = [(line[2], line[3]) for line in lines if line[:2] == [name, begin]]
        assert [new for _, new in runs] == [True, False, True]
        assert runs[0][0] == runs[1][0] != runs[2][0]
        steps = [(line[2], line[3]) for line in lines if line[:2] == [name, own]]
        assert steps == [(runs[0][0], 1), (runs[0][0], 2), (runs[0][0], 3), (runs[2][0], 1)]
    assert sum(line[:2] == ["mlflow", "params"] for line in lines) == 2, "they are told once a run"
    assert not [file for file in folder.rglob("*") if file.is_file() and b"hush" in file.read_bytes()]


def test_a_run_that_was_deleted_is_told_in_a_line(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "out", 1)
    monkeypatch.setenv("DELETED", "1")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI: .+not found at the server\); .+runs\.json.+$"):
        trained(tmp_path / "out", 2)


def test_another_server_has_a_run_of_its_own(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "out", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:2")
    trained(tmp_path / "out", 2)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    trained(tmp_path / "out", 3)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line[3] for line in lines if line[:2] == ["mlflow", "start"]] == [True, True]
    assert [line[3] for line in lines if line[:2] == ["wandb", "init"]] == [True, False, False]


def test_being_installed_alone_sends_nothing(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    trained(tmp_path / "out", 1)
    assert not told.exists()
    assert [file.name.split(".")[0] for file in (tmp_path / "out").iterdir()] == ["events"]
