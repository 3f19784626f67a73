"""The command line as a user meets it: what is wrong is told in one line, with status 2."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cp_ray.cli import main
from cp_ray.errors import ConfigError
from cp_ray.pipeline import Run, Step
from cp_ray.recipe import Options, load_recipe, parse_recipe
from cp_ray.stages.seeds import CandidatesConfig

ROOT = Path(__file__).parent.parent


def cp_ray(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    code = "from cp_ray.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)


def toy(options: Options, *, rounds: int = 3, rate: float = 0.5, name: str | None = None) -> list[Step]:
    """A toy.

    Args:
        options: what every recipe takes
        rounds: how many
    """
    return [Step(f"{rounds}/{rate}/{name}/{options.seed}", None, lambda folder, inputs: None)]


def test_keyword_arguments_are_options() -> None:
    options, steps = parse_recipe(toy, ["--rounds", "7", "--rate", "0.25", "--cultures", "greek", "--seed", "4"], "toy")
    assert steps[0].name == "7/0.25/None/4"
    assert options.cultures == "greek"
    assert parse_recipe(toy, [], "toy")[0] == Options(root="runs/toy")


def test_a_base_in_a_folder_is_named_so_that_it_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own", "smollm2"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert Options(base_model="own").base_model == str(tmp_path / "own")
    for name in ("smollm2", "Qwen/Qwen3-8B"):
        assert Options(base_model=name).base_model == name


def test_every_recipe_has_a_run_folder_of_its_own() -> None:
    roots = {}
    for file in ("demo", "culturepark", "culturellm"):
        recipe = load_recipe(str(ROOT / "jobs" / f"{file}.py"))
        roots[file] = parse_recipe(recipe, [], "test")[0].root
    assert roots == {"demo": "runs/demo", "culturepark": "runs/culturepark", "culturellm": "runs/culturellm"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cultures", "germn"], "did you mean 'german'"),
        (["--culture", "german"], "unknown option --culture; did you mean --cultures?"),
        (["--rounds", "many"], "--rounds: invalid int value: 'many'"),
        (["--rounds", "0"], "rounds: must be between 1 and 7, got 0"),
        (["--until", "trian"], "no step is called 'trian'"),
        (["--rpm", "0"], "rpm: must be at least 1, got 0"),
        (["--seed", "-1"], "seed: must be from 0 to 4294967295, got -1"),
        (["--seed", "1764563000000"], "seed: must be from 0 to 4294967295, got 1764563000000"),
        (["--teacher-url", "localhost:8000"], "must begin with http:// or https://"),
        (["--dialogues", "-1"], "dialogues: must be at least 1, got -1"),
        (["--teacher-model", "gpt-4o"], "needs a server; give --teacher-url"),
        (["--survey", "no/such/file.csv"], "no/such/file.csv cannot be read"),
        (["--survey", "pyproject.toml"], "has none of the known forms"),
        (["--survey", "tests"], "tests cannot be read"),
        (["--cultures-file", "no/such/file.json"], "no/such/file.json cannot be read"),
        (["--cultures-file", "README.md"], "README.md cannot be read"),
        (["--heldout", "50"], "heldout: must be fewer than the survey's questions, which are 50, got 50"),
        (["--root", "README.md/run"], "README.md/run"),
        (["--root", "tests"], "not a run folder"),
        (["--root", "nosuch://x"], "cannot be opened"),
        (["--workers", "0"], "workers: must be at least 1"),
        (["--gpus", "-1"], "gpus: must be at least 0, got -1"),
        (["--budget", "5usd"], "budget: no price is known for 'smollm2'; give one with --prices"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments: list[str], said: str) -> None:
    ended = cp_ray("run", "jobs/demo.py", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "needs a file first"),
        (["run", "no/such.py"], "no file 'no/such.py'"),
        (["run", "README.md"], "not a Python file"),
        (["run", "tests/conftest.py"], "no function called 'conftest'"),
        (["rnu", "jobs/demo.py"], "there is no 'rnu'"),
        (["peek", "dialogue", "--root", "no/such/run"], "'dialogue' is not done"),
        (["peek", "dialogue", "-n", "0"], "n: must be at least 1"),
        (["serve", "no/such/run"], "no trained adapter"),
        (["serve", "no/such/run", "--port", "99999"], "port: must be between"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(arguments: list[str], said: str) -> None:
    ended = cp_ray(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("torn.py", b"def torn(:", "torn.py' cannot be loaded: SyntaxError: invalid syntax (torn.py, line 1)"),
        ("nul.py", b"x = 1\0", "nul.py' cannot be loaded: "),
        ("latin.py", b"x = '\xff'", "latin.py' cannot be loaded: SyntaxError: "),
        (
            "bare.py",
            b"def bare(options, *, n=3):\n    return []",
            "option 'n' must be annotated as int, float or str (or None",
        ),
        ("none.py", b"def none(options):\n    return []", "'none' must return the steps to be done, got []"),
        ("lacks.py", b"\nimport no_such_module", "No module named 'no_such_module' (line 2)"),
        ("raises.py", b"1 / 0", "raises.py' cannot be loaded: ZeroDivisionError: division by zero (line 1)"),
        ("my-recipe.py", b"", "none in Python can be called 'my-recipe'; rename it, such as my_recipe.py"),
        ("2024.py", b"", "none in Python can be called '2024'; rename it, such as _2024.py"),
        ("class.py", b"", "none in Python can be called 'class'; rename it, such as class_.py"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_recipe(load_recipe(str(tmp_path / name)), [], "test")


@pytest.mark.parametrize(
    ("step", "damage", "said"),
    [
        ("seeds", "rows", "rows cannot be read (they are gone); delete that step's folder"),
        ("seeds", "rows/0.parquet", "rows cannot be read ("),
        ("seeds", "manifest.json", "manifest.json is damaged ("),
        ("page", "", "step: 'page' has no rows; open its files in "),
    ],
)
def test_what_cannot_be_shown_of_a_step_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str, damage: str, said: str
) -> None:
    run, seeds = Run(str(tmp_path)), parse_recipe(load_recipe(str(ROOT / "jobs" / "demo.py")), [], "test")[1][0]
    run.begin()
    run.do(seeds)
    run.do(Step("page", CandidatesConfig(), lambda folder, inputs: None))
    damaged = Path(run.folder(seeds).path) / damage
    if damage == "rows":
        shutil.rmtree(damaged)
    elif damage:
        damaged.write_bytes(b"\xff")
    with pytest.raises(SystemExit) as ended:
        main(["peek", step, "--root", str(tmp_path)])
    told = capsys.readouterr()
    assert (ended.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert said in told.err


def test_whole_models_learn_at_a_rate_of_their_own(tmp_path: Path) -> None:
    def rates(tuning: str) -> list[float]:
        arguments = ["--root", str(tmp_path), "--tuning", tuning, "--unified", "yes"]
        _, made = parse_recipe(load_recipe(str(ROOT / "jobs" / "demo.py")), arguments, "test")
        trainings = [step.config for step in made if step.name.split(".")[0] == "train"]
        return [adapter.learning_rate for config in trainings for adapter in config.adapters]

    assert rates("lora") == 3 * [2e-3]
    assert rates("full") == 3 * [1e-4]


def test_a_missing_package_for_4_bits_is_told_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--root", str(tmp_path), "--tuning", "qlora"]
    recipe = load_recipe(str(ROOT / "jobs" / "demo.py"))
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ConfigError, match=r"^tuning: qlora .* pip install -e '.\[qlora\]' on every node, or choose"):
        parse_recipe(recipe, arguments, "test")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: find("json" if name == "bitsandbytes" else name))
    _, steps = parse_recipe(recipe, arguments, "test")
    assert next(step for step in steps if step.name == "train").config.method == "qlora"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(needed.startswith("bitsandbytes") for needed in extras["qlora"])


@pytest.mark.parametrize("until", ["dialogue", "report"])
def test_a_teacher_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path, scripted_server: Any, until: str
) -> None:
    server = scripted_server(key="right")
    for url, model, said in (
        ("http://127.0.0.1:9/v1", "scripted", "nothing answers at"),
        (server.url, "scripted", "refuses the key"),
    ):
        ended = cp_ray("run", "jobs/demo.py", "--root", str(tmp_path / "run"), "--until", until, "--teacher-url", url,
                       "--teacher-model", model)  # fmt: skip
        assert ended.returncode == 2
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_the_options_are_right(tmp_path: Path) -> None:
    assert cp_ray("run", "jobs/demo.py", "--root", str(tmp_path / "run"), "--rounds", "9").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option() -> None:
    ended = cp_ray("run", "jobs/demo.py", "--help")
    assert ended.returncode == 0
    for option in ("--root", "--cultures", "--cultures-file", "--until", "--teacher-url", "--teacher-model", "--rpm",
                   "--tpm", "--base-model", "--seed", "--survey", "--rounds", "--passes"):  # fmt: skip
        assert f"{option} " in ended.stdout
    assert cp_ray().returncode == 0


@pytest.mark.parametrize(
    ("command", "own"), [("run", "--until STR"), ("show", "--cost"), ("sweep", "--over NAME=V1,V2")]
)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_needs_no_recipe(capsys: pytest.CaptureFixture[str], command: str, own: str, asked: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, asked])
    told = capsys.readouterr()
    assert (ended.value.code, told.err) == (0, "")
    assert told.out.startswith(f"usage: cp-ray {command} RECIPE [options]")
    for option in (own, "jobs/demo.py", "--root", "--cultures", "--teacher-url"):
        assert option in told.out


def test_a_recipe_is_found_by_its_file() -> None:
    assert load_recipe(str(ROOT / "jobs" / "demo.py")).__name__ == "demo"


def test_show_lists_what_is_to_do(tmp_path: Path) -> None:
    ended = cp_ray("show", "jobs/demo.py", "--root", str(tmp_path / "run"), "--until", "dialogue")
    assert ended.stdout == "todo  seeds\ntodo  candidates\ntodo  dialogue\n"
    assert list(tmp_path.iterdir()) == []
