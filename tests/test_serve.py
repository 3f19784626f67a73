import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.evals.trained import trained_models
from cp_ray.folder import open_folder
from cp_ray.pipeline import Run, Step
from cp_ray.serve import key_command, serve_command, trained
from cp_ray.serving.keys import Key, read_keys
from cp_ray.serving.spec import ServeSpec
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, TrainConfig


def test_a_new_key_works_with_the_line_that_comes_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key_command(["school"])
    printed = capsys.readouterr().out
    (key,) = re.findall(r"cp-[\w-]{43}", printed)
    (tmp_path / "keys.yaml").write_text("keys:\n" + printed)
    holder = read_keys(str(tmp_path / "keys.yaml")).holder(f"Bearer {key}")
    assert holder is not None
    assert (holder.name, holder.admin) == ("school", False)
    entry = yaml.safe_load("keys:\n" + printed)["keys"][0]
    assert entry == {"name": "school", "sha256": hashlib.sha256(key.encode()).hexdigest()}


@pytest.mark.parametrize("name", ["2024", "a: b", "- x", "#1", "null", 'Ünal\'s  "class"', "a\nb", "yes"])
def test_a_key_s_entry_is_yaml_whatever_its_holder_is_called(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    key_command(["--", name])
    printed = capsys.readouterr().out
    (tmp_path / "keys.yaml").write_text("keys:\n" + printed, encoding="utf-8")
    (key,) = re.findall(r"^#   (cp-[\w-]{43})$", printed, re.MULTILINE)
    holder = read_keys(str(tmp_path / "keys.yaml")).holder(f"Bearer {key}")
    assert holder is not None
    assert holder.name == name


@pytest.mark.parametrize("name", ["", "  "])
def test_a_key_needs_a_holder(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(ConfigError, match="name: must not be empty"):
        key_command([name])
    assert capsys.readouterr().out == ""


def test_what_a_key_s_entry_offers_in_comments_can_be_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key_command(["school"])
    printed = capsys.readouterr().out
    (tmp_path / "keys.yaml").write_text("keys:\n" + re.sub("^    # ", "    ", printed, flags=re.MULTILINE))
    (key,) = re.findall(r"cp-[\w-]{43}", printed)
    holder = read_keys(str(tmp_path / "keys.yaml")).holder(f"Bearer {key}")
    assert holder is not None
    offered = {field.name: getattr(holder, field.name) for field in fields(Key)}
    assert offered == {
        "name": "school", "sha256": holder.sha256, "requests_per_minute": 60, "tokens_per_minute": 20000,
        "models": ("german", "arabic"), "culture": "german", "admin": True,
    }  # fmt: skip


def test_each_key_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        key_command(["school"])
    assert len(set(re.findall(r"cp-[\w-]{43}", capsys.readouterr().out))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "port: must be between"),
        (["--max-rows", "0"], "max_rows: must be"),
        (["--engine", "tgi"], "engine: must be cp_ray or vllm"),
        (["--cpus", "nan"], "num_cpus: must be a number of at least 0, got nan"),
        (["--gpus", "inf"], "num_gpus: must be a number of at least 0, got inf"),
        (["--keys", "nowhere.yaml"], "keys: nowhere.yaml cannot be read"),
        (["--log", "no/where/log"], "request_log: must be a file that can be .* got 'no/where/log'; make its folder"),
        (["--log", "/tmp"], "request_log: must be a file"),
        (["--log", "/dev/null/log"], "request_log: must be a file"),
        (["--versions", "no/where.json"], "versions: must be a file that can be written"),
        (["--versions", "/tmp"], "versions: must be a file"),
        (["--adapters", "no/where"], "adapters: must be a folder that is there, got 'no/where'; make it"),
        ([], "has no trained adapter"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=message):
        serve_command([str(tmp_path / "run"), *arguments])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_goes_on_to_drain_and_told_again_it_ends_at_once(number: signal.Signals) -> None:
    code = """
import time
from cp_ray.serve import until_told
until_told("ready")
print("draining", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        for said in ("ready", "draining"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(number)
        assert process.wait(timeout=60) == -number


def test_a_run_without_training_has_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run a recipe up to its step train"):
        trained(Run(str(tmp_path)), "run")


@pytest.mark.parametrize("lacking", ["base_model", "method", "adapters"])
@pytest.mark.parametrize("read", [lambda root: trained(Run(root), root), trained_models], ids=["serve", "evaluate"])
def test_a_training_whose_manifest_lacks_a_field_is_told(
    tmp_path: Path, read: Callable[[str], Any], lacking: str
) -> None:
    run, config = Run(str(tmp_path)), TrainConfig("smollm2", (AdapterConfig("german", (CULTURES["german"],)),), WVS7)
    step = Step("train", config, lambda folder, inputs: None)
    run.begin()
    run.do(step)
    file = Path(run.folder(step).path, "manifest.json")
    manifest = json.loads(file.read_text())
    del manifest["config"][lacking]
    file.write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=rf"manifest.json is damaged \(it lacks '{lacking}'\)"):
        read(str(tmp_path))


def test_cultures_are_served_under_their_ids_and_all_of_them_together_as_unified(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    spec = ServeSpec.of_cultures("smollm2", {CULTURES["german"]: folder / "german"}, folder / "unified")
    assert [(m.id, m.culture, m.locales) for m in spec.models] == [
        ("german", "german", ("de", "de-DE")),
        ("unified", "", ()),
    ]
    assert spec.known_cultures == (CULTURES["german"],)
