"""Hosted fine-tuning against a local server that follows OpenAI's interface."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cp_ray import steps
from cp_ray.arrow import to_table
from cp_ray.cli import main
from cp_ray.errors import ConfigError, CpRayError, RunFolderError, TrainerError
from cp_ray.evals.report import ReportConfig, render
from cp_ray.exports.openai_rules import check_openai
from cp_ray.pipeline import Run, Step, pending
from cp_ray.recipe import Options
from cp_ray.records import Example, Message, Prediction, Score, Seed
from cp_ray.steps.model_options import ModelOptions
from cp_ray.training.hosted import fit
from cp_ray.training.hosted.config import HostedConfig, HostedPoint
from cp_ray.training.hosted.jobs import HostedJobs
from tests.conftest import Server
from tests.training.finetuning import MODEL, Desk, Fault, finetuning_app
from tests.training.hosted_driver import FAST, chats, train

ROOT = Path(__file__).parent.parent.parent
SOON = {"retry-after-ms": "10"}
JOBS = "POST /fine_tuning/jobs"
JOB = "/fine_tuning/jobs/ftjob-0001"

Start = Callable[..., tuple[Desk, str]]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(**options: Any) -> tuple[Desk, str]:
            desk = Desk(**options)
            return desk, stack.enter_context(Server(finetuning_app(desk))).url

        yield begin


def made(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "out" / "hosted.json").read_text())
    return found


def failed(url: str, root: Path, kind: type[CpRayError] = TrainerError, **options: Any) -> str:
    """What is told, in one line, without the key."""
    with pytest.raises(kind) as raised:
        train(url, str(root), **options)
    told = str(raised.value)
    assert "\n" not in told
    assert "s3cret" not in told
    return told


def test_a_culture_s_rows_become_a_model(start: Start, tmp_path: Path) -> None:
    desk, url = start(key="s3cret")
    said: list[str] = []
    points = train(url, str(tmp_path), say=said.append)
    (job,) = desk.jobs.values()
    assert job.body["model"] == MODEL
    assert job.body["method"] == {
        "type": "supervised",
        "supervised": {
            "hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
        },
    }
    assert (job.body["seed"], job.body["suffix"]) == (0, "german")
    name, content = desk.files[job.body["training_file"]]
    assert (name, len(desk.files)) == ("german.jsonl", 1)
    assert check_openai(content.splitlines()) == []
    asked = [json.loads(line)["messages"][1]["content"] for line in content.splitlines()]
    assert sorted(asked) == sorted(f"Is it {k}?" for k in range(12))
    assert asked != sorted(asked), "in an order that mixes the questions"

    assert [p.step for p in points] == list(range(1, 19)), "six batches of two in each of three epochs"
    assert points[2] == HostedPoint("german", 3, 0.66667, 0.5)
    told = made(tmp_path)
    assert told["model"] == f"ft:{MODEL}:org:german:0001"
    assert (told["job"], told["trained_tokens"], told["training_file"]) == ("ftjob-0001", 1800, "file-0001")
    assert told["hyperparameters"] == {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.8}
    assert told["checkpoints"][0]["model"] == f"{told['model']}:ckpt-step-18"
    assert said[0] == f"ftjob-0001 started at {url}"
    assert said[1] == "Created fine-tuning job: ftjob-0001"
    (progress,) = [line for line in said if line.startswith("Step ")]
    assert re.fullmatch(r"Step 18/18: training loss=0\.11, about [12] min left", progress)
    assert said[-1] == f"{told['model']}, 1,800 tokens trained on"
    assert len(said) == len(set(said)), "each event once"


def test_what_is_asked_for_is_what_is_trained(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    asked: dict[str, Any] = {"n_epochs": 10, "batch_size": 1, "learning_rate_multiplier": 0.5}
    points = train(url, str(tmp_path), validation=chats("greek", 2), seed=7, suffix="tries", **asked)
    (job,) = desk.jobs.values()
    assert job.asked == asked
    assert (job.body["seed"], job.body["suffix"]) == (7, "tries")
    name, content = desk.files[job.body["validation_file"]]
    assert (name, len(content.splitlines())) == ("german-validation.jsonl", 2)
    assert len(points) == 120, "more events than a page holds"
    assert points[0] == HostedPoint("german", 1, 2.0, 0.5, 2.5, 0.25)
    assert made(tmp_path)["validation_file"] == job.body["validation_file"]
    train(url, str(tmp_path), validation=chats("greek", 2), seed=8, suffix="tries", **asked)
    train(url, str(tmp_path), validation=chats("greek", 3), seed=7, suffix="tries", **asked)
    assert len(desk.jobs) == 3, "another seed or another file is another training"


def test_a_training_that_is_done_is_not_paid_for_again(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    first = train(url, str(tmp_path))
    told = made(tmp_path)
    (tmp_path / "out" / "hosted.json").unlink()
    said: list[str] = []
    assert train(url, str(tmp_path), say=said.append, rows=chats()[::-1]) == first, "nor for rows in another order"
    assert made(tmp_path) == {**told, "finished": made(tmp_path)["finished"]}
    assert said[0] == "ftjob-0001 was started before"
    assert (desk.calls[JOBS], desk.calls["POST /files"]) == (1, 1)


@pytest.mark.parametrize(
    "moment", ["before it is created", "before its id is kept", "before its results are kept", "while it waits"]
)
def test_a_killed_driver_starts_no_second_job(start: Start, tmp_path: Path, moment: str) -> None:
    desk, url = start()
    desk.held = moment == "while it waits"
    command = [sys.executable, "-m", "tests.training.hosted_driver", url, str(tmp_path), moment]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as driver:
        if desk.held:
            assert driver.stderr is not None
            while "Validating" not in driver.stderr.readline():
                assert driver.poll() is None
            driver.kill()
        driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    assert len(desk.jobs) == (0 if moment == "before it is created" else 1)
    assert not (tmp_path / "out").exists()
    desk.held = False
    assert len(train(url, str(tmp_path))) == 18
    assert made(tmp_path)["job"] == "ftjob-0001"
    assert (desk.calls[JOBS], desk.calls["POST /files"]) == (1, 1)


def test_ctrl_c_leaves_the_job_running_and_a_command_ends_it(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk, url = start()
    desk.held = True
    command = [sys.executable, "-m", "tests.training.hosted_driver", url, str(tmp_path), "while it waits"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        while "Validating" not in driver.stderr.readline():
            assert driver.poll() is None
        driver.send_signal(signal.SIGINT)
        rest = driver.stderr.read()
    assert f"ftjob-0001 goes on at {url}; the same command watches it again" in rest
    assert f"`cp-ray hosted {tmp_path} --cancel ftjob-0001` ends it" in rest
    assert desk.jobs["ftjob-0001"].status == "validating_files"

    (tmp_path / "run.json").write_text('{"format": 1}')
    hosted = ("hosted", str(tmp_path))
    status, out, _ = cp_ray(capsys, *hosted)
    assert (status, out.split()) == (0, ["ftjob-0001", "german", "validating_files"])
    wrong = "cp-ray: cancel: the run has no job 'ftjob-9'; it has ftjob-0001\n"
    assert cp_ray(capsys, *hosted, "--cancel", "ftjob-9") == (2, "", wrong)
    assert cp_ray(capsys, *hosted, "--cancel", "ftjob-0001") == (0, "ftjob-0001  cancelled\n", "")
    status, _, told = cp_ray(capsys, *hosted, "--cancel", "ftjob-0001")
    assert status == 2
    assert "does not cancel the job ftjob-0001 (status 400: Job has already completed" in told
    desk.held = False
    assert failed(url, tmp_path) == (
        "trainer: the job ftjob-0001 of german was cancelled; the same command starts another"
    )
    assert len(train(url, str(tmp_path))) == 18
    assert made(tmp_path)["job"] == "ftjob-0002"


def cp_ray(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0), *capsys.readouterr()


def test_a_run_without_hosted_jobs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = f"cp-ray: run: '{tmp_path / 'none'}' has no hosted job\n"
    assert cp_ray(capsys, "hosted", str(tmp_path / "none")) == (2, "", told)


def test_a_job_that_fails_is_told_and_then_started_anew(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    desk.failing = ("invalid_training_file", "Line 3 of file-0001\nis no chat.")
    assert failed(url, tmp_path) == (
        "trainer: the job ftjob-0001 of german failed (invalid_training_file: Line 3 of file-0001 is no chat.); "
        "the same command starts another"
    )
    assert not (tmp_path / "out").exists()
    desk.failing = None
    train(url, str(tmp_path))
    assert made(tmp_path)["job"] == "ftjob-0002"


def test_rows_that_would_be_refused_are_not_sent(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    told = failed(url, tmp_path, ConfigError, rows=chats(count=9))
    assert told == f"training rows of german: {url} would refuse them: at least 10 chats are needed, got 9"
    empty = [replace(e, messages=(Message("user", "x"), Message("assistant", " "))) for e in chats()]
    told = failed(url, tmp_path, ConfigError, rows=empty)
    assert "line 1: message 2: content must be text that is not empty, got ' '; line 2" in told
    assert told.endswith("(and 9 more)")
    told = failed(url, tmp_path, ConfigError, validation=empty[:1])
    assert told.startswith("validation rows of german:")
    assert not desk.calls


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("POST /files", 400, message="A\nB"), "does not take the file german.jsonl (status 400: A B)"),
        (Fault("POST /files", 404), "does not take the file german.jsonl (status 404: As told.)"),
        (Fault("POST /files", 413), "does not take the file german.jsonl (status 413: As told.)"),
        (Fault(JOBS, 400, message="No."), "does not take the job (status 400: No.)"),
        (Fault(JOBS, 403, message="Verify."), "does not take the job (status 403: Verify.)"),
        (Fault(JOBS, 429, "insufficient_quota", "You are broke."), "wants money first (You are broke.)"),
        (Fault(f"GET {JOB}", 404), "does not know the job ftjob-0001; put the key of the account"),
        (Fault(f"GET {JOB}/events", 403), "does not tell of the job ftjob-0001 (status 403: As told.)"),
    ],
    ids=lambda value: f"{value.call} {value.status}" if isinstance(value, Fault) else "",
)  # fmt: skip
def test_a_refusal_is_told_in_the_provider_s_words(start: Start, tmp_path: Path, fault: Fault, told: str) -> None:
    desk, url = start()
    desk.faults.append(fault)
    assert failed(url, tmp_path).startswith(f"trainer: {url} {told}")
    assert len(train(url, str(tmp_path))) == 18, "and the same command goes on when it is mended"
    assert len(desk.jobs) == 1


def test_an_unknown_model_is_told(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    told = failed(url, tmp_path, model="gpt-17")
    assert (
        "does not take the job (status 400: Model gpt-17 is not available for fine-tuning or does not exist.)" in told
    )
    assert not desk.jobs


def test_a_wrong_key_is_told_and_not_shown(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, url = start(key="right")
    assert failed(url, tmp_path) == f"trainer: {url} refuses the key; put the right one into OPENAI_API_KEY"
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    desk.faults.append(Fault(JOBS, 401))
    assert failed(url, tmp_path) == f"trainer: {url} refuses the key; put the right one into OPENAI_API_KEY"
    assert len(train(url, str(tmp_path))) == 18
    assert not any("right" in file.read_text() for file in tmp_path.rglob("*.json"))


def test_nobody_there(tmp_path: Path) -> None:
    told = failed("http://127.0.0.1:9/v1", tmp_path, patience=replace(FAST, attempts=1))
    assert told == (
        "trainer: http://127.0.0.1:9/v1 does not answer; when it does, the same command goes on where it was"
    )


@pytest.mark.parametrize("call", ["POST /files", f"GET {JOB}", "GET /files/file-results", JOBS])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(start: Start, tmp_path: Path, call: str, status: int) -> None:
    desk, url = start()
    desk.faults += [Fault(call, status, headers=SOON)] * 2
    assert len(train(url, str(tmp_path))) == 18
    assert not desk.faults
    assert len(desk.jobs) == 1


def test_a_provider_that_stays_away_is_told_and_the_job_is_kept(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    desk.faults += [Fault(f"GET {JOB}", 503, headers=SOON)] * 4
    assert failed(url, tmp_path) == (
        f"trainer: {url} does not tell of the job ftjob-0001 (status 503: As told.); "
        "later, the same command goes on where it was"
    )
    assert len(train(url, str(tmp_path))) == 18
    assert len(desk.jobs) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_answer_to_a_creation_is_looked_into(start: Start, tmp_path: Path, times: int) -> None:
    desk, url = start()
    desk.faults.append(Fault(JOBS, 500, headers=SOON, done=True))
    if times == 2:  # and the look itself goes wrong, at first
        desk.faults.append(Fault("GET /fine_tuning/jobs", 502, headers=SOON))
    assert len(train(url, str(tmp_path))) == 18
    assert (desk.calls[JOBS], len(desk.jobs)) == (1, 1)


def test_a_lost_answer_to_the_last_try_is_looked_into_by_the_next_run(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    lost = [Fault(JOBS, 500, headers=SOON, done=True), Fault("GET /fine_tuning/jobs", 403)]
    desk.faults += lost
    assert "does not list its jobs (status 403: As told.)" in failed(url, tmp_path)
    assert len(train(url, str(tmp_path))) == 18
    assert (desk.calls[JOBS], len(desk.jobs)) == (1, 1)


@pytest.mark.parametrize("filters", [True, False])
def test_a_job_of_others_is_not_taken_for_ours(start: Start, tmp_path: Path, filters: bool) -> None:
    desk, url = start()
    desk.filters = filters
    train(url, str(tmp_path / "others"))
    desk.faults.append(Fault(JOBS, 500, headers=SOON))
    train(url, str(tmp_path / "ours"))
    assert made(tmp_path / "ours")["job"] == "ftjob-0002"


def test_a_job_that_was_refused_gets_new_files(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    desk.faults.append(Fault(JOBS, 400, "invalid_file"))
    failed(url, tmp_path)
    desk.files.clear()
    assert len(train(url, str(tmp_path))) == 18


@pytest.mark.parametrize("kind", ["plain", "none", "gone"])
def test_the_loss_is_found_however_it_is_told(start: Start, tmp_path: Path, kind: str) -> None:
    desk, url = start()
    wanted = train(url, str(tmp_path / "encoded"))
    desk.encoded, desk.results = kind != "plain", kind != "none"
    if kind == "gone":
        desk.faults.append(Fault("GET /files/file-results", 404))
    found = train(url, str(tmp_path / kind))
    assert (found == wanted) == (kind == "plain"), "events tell more digits"
    assert [(p.step, round(p.loss, 5)) for p in found] == [(p.step, p.loss) for p in wanted]
    assert len(made(tmp_path / kind)["checkpoints"]) == (0 if kind == "none" else 1)


def test_jobs_that_are_submitted_first_go_on_side_by_side(start: Start, tmp_path: Path) -> None:
    desk, url = start()
    desk.held = True
    configs = [HostedConfig(culture, url=url) for culture in ("german", "greek", "korean")]
    full = Fault(JOBS, 429, "rate_limit_exceeded", "3 active requests", SOON)
    for config in configs:
        if config.culture == "korean":
            desk.faults += [full] * FAST.attempts
        job = fit.submit(config, chats(config.culture), str(tmp_path), patience=FAST)
        assert (job is None) == (config.culture == "korean"), "the provider takes two at once"
    assert {job.status for job in desk.jobs.values()} == {"validating_files"}
    desk.faults += [full] * FAST.attempts
    assert "takes no more jobs now" in failed(url, tmp_path, culture="korean", rows=chats("korean"))
    desk.held = False
    for config in configs:
        train(url, str(tmp_path), culture=config.culture, rows=chats(config.culture))
        assert made(tmp_path)["model"].split(":")[3] == config.culture
    assert (len(desk.jobs), len(desk.files)) == (3, 3)


@pytest.mark.long
def test_a_recipe_that_trains_there(
    start: Start, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Rows:
        n: int = 1

    monkeypatch.setattr(fit, "Patience", lambda: FAST)
    _, url = start()
    options, run = Options(root=str(tmp_path), cultures="german,greek"), Run(str(tmp_path))
    run.begin()
    both = [*chats("german"), *chats("greek", 10)]
    examples = Step("examples", Rows(), lambda folder, inputs: to_table(both, Example), rows=Example)
    seeds = steps.seeds(options, questions=2, heldout=2)
    made = steps.culture_models(
        seeds, examples, options, ModelOptions(unified="yes", trainer="openai", trainer_url=url)
    )
    assert [step.name for step in made] == [
        "submit.german", "submit.greek", "submit.all", "hosted.german", "hosted.greek", "hosted.all",
        "predict", "evaluate",
    ]  # fmt: skip
    assert pending(run, made) == made, "the trainer was asked, and lets us in"
    done = {step.name: run.do(step) for step in [seeds, examples, *made]}
    folders = {step.name: run.folder(step) for step in [seeds, *made]}
    for culture, rows in (("german", 18), ("greek", 15), ("all", 33)):
        assert done[f"hosted.{culture}"].rows == rows
        assert {p.culture for p in folders[f"hosted.{culture}"].read(HostedPoint)} == {culture}
        assert json.loads(folders[f"hosted.{culture}"].read_text("hosted.json") or "")["culture"] == culture

    held = {(s.culture, s.question_id): s for s in folders["seeds"].read(Seed) if s.split == "heldout"}
    predicted = folders["predict"].read(Prediction)
    assert len(predicted) == 4 * len(held) == 4 * 4
    for p in predicted:
        wanted = (min if p.model == "base" else max)(held[p.culture, p.item].options)
        assert (p.output, max(p.probabilities)) == (wanted, 1.0), "each is asked by its own name"
    assert {"base", "german", "greek", "unified"} <= {s.model for s in folders["evaluate"].read(Score)}
    _, told = render(folders, str(tmp_path), ReportConfig(
        options.chosen, seeds.config.source))  # fmt: skip
    assert "German" in told


def test_a_recipe_asks_the_trainer_before_it_begins(start: Start, tmp_path: Path) -> None:
    _, url = start(key="another")
    options, run = Options(root=str(tmp_path), cultures="german"), Run(str(tmp_path))
    seeds = steps.seeds(options)
    for address, error, told in (
        (url, TrainerError, "refuses"), ("http://127.0.0.1:9/v1", TrainerError, "trainer: "),
        ("api.openai.com", ConfigError, "trainer-url: must begin with http:// or https://"),
        ("http://", ConfigError, "trainer-url: must begin with http:// or https:// and name a host"),
    ):  # fmt: skip
        models = ModelOptions(trainer="openai", trainer_url=address)
        with pytest.raises(error, match=told):
            pending(run, steps.culture_models(seeds, seeds, options, models))


def test_a_damaged_record_is_told(start: Start, tmp_path: Path) -> None:
    _, url = start()
    train(url, str(tmp_path))
    (job,) = HostedJobs(str(tmp_path)).read()
    Path(HostedJobs(str(tmp_path)).path(job.digest)).write_text('{"digest": ')
    assert ".json is damaged" in failed(url, tmp_path, RunFolderError)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "api.openai.com"}, "url: must begin with http:// or https://, got 'api.openai.com'"),
        ({"n_epochs": 0}, "n_epochs: must be auto or from 1 to 50, got 0"),
        ({"n_epochs": "three"}, "n_epochs: must be auto or from 1 to 50, got 'three'"),
        ({"batch_size": 257}, "batch_size: must be auto or from 1 to 256, got 257"),
        ({"learning_rate_multiplier": 0.0}, "learning_rate_multiplier: must be auto or above 0, got 0.0"),
        ({"seed": -1}, "seed: must be from 0 to 2147483647, got -1"),
        ({"suffix": ""}, "suffix: must have 1 to 64 characters, got ''"),
        ({"suffix": "x" * 65}, "suffix: must have 1 to 64 characters, got 'x"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        HostedConfig("german", **options)
    assert str(raised.value).startswith(told)
