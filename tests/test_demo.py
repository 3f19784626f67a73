"""The whole main job, on the real embedded model and a handful of questions; and again with nothing to do."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cp_ray.evals.nulls import HUMAN, NULLS
from cp_ray.exports.openai_rules import check_openai
from cp_ray.pipeline import Run
from cp_ray.records import Example, Prediction, Score, Seed, TrainPoint
from tests.conftest import free_port

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
SMALL = [
    "--dialogues", "1", "--rounds", "1", "--answers", "4", "--passes", "1", "--questions", "2", "--heldout", "4",
    "--workers", "1",
]  # fmt: skip


def demo(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/demo.py", "--root", str(root), *SMALL, *more], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    ended = demo(folder)
    assert ended.returncode == 0, ended.stderr
    assert "Distance to the people's answers" in ended.stdout
    return folder


def rows(root: Path, name: str, row: type) -> list[Any]:
    (folder,) = [f for f in Run(str(root)).done() if (m := f.manifest()) and m.name == name]
    return folder.read(row)


@pytest.mark.timeout(1800)
def test_every_step_leaves_what_it_says(root: Path) -> None:
    seeds, examples = rows(root, "seeds", Seed), rows(root, "examples", Example)
    heldout = {s.question_id for s in seeds if s.split == "heldout"}
    assert len(heldout) == 4
    assert not heldout & {e.question_id for e in examples}
    scores = rows(root, "evaluate", Score)
    assert {(s.model, s.culture) for s in scores} == {
        (m, c) for m in (*NULLS, HUMAN, "base", "arabic", "german") for c in ("arabic", "german")
    }
    assert {s.task.partition("/")[0] for s in scores} == {"survey_heldout", "survey_train"}
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in scores if not s.metric.startswith("skill"))
    assert {s.metric for s in scores if s.model == "german"} == {
        "emd", "jsd", "skill_emd", "skill_jsd", "order_stability",
    }  # fmt: skip
    assert [p.model for p in rows(root, "serve", Prediction)] == ["arabic", "german"]
    (folder,) = [f for f in Run(str(root)).done() if (m := f.manifest()) and m.name == "train"]
    for culture in ("arabic", "german"):
        points = [p for p in (folder / "log").read(TrainPoint) if p.model == culture]
        assert points[-1].step == len(points) >= 1
        config = json.loads((Path(folder.path) / "adapters" / culture / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    lines = (root / "export" / "openai" / "all.jsonl").read_bytes().splitlines()
    assert check_openai(lines) == []
    assert len(lines) == len(examples)
    assert "<title>cp_ray: Arab, German</title>" in (root / "report.html").read_text()


@pytest.mark.timeout(600)
def test_a_second_time_there_is_nothing_to_do(root: Path) -> None:
    ledger = {p: p.stat().st_mtime_ns for p in (root / "ledger").iterdir()}
    ended = demo(root)
    assert ended.returncode == 0
    assert ended.stderr.count("done before") == 14
    assert "ray" not in ended.stderr.lower().replace("cp_ray", "").replace("cp-ray", ""), "Ray was not even started"
    assert {p: p.stat().st_mtime_ns for p in (root / "ledger").iterdir()} == ledger


@pytest.mark.timeout(600)
def test_show_and_peek_tell_what_is_there(root: Path) -> None:
    code = "from cp_ray.cli import main; main()"

    def cp_ray(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    shown = cp_ray("show", "jobs/demo.py", "--root", str(root), *SMALL)
    assert shown.count("done  ") == 14
    assert "tokens paid" in shown
    changed = cp_ray("show", "jobs/demo.py", "--root", str(root), *SMALL, "--passes", "2")
    assert [line.split()[1] for line in changed.splitlines() if line.startswith("todo")] == [
        "train", "predict", "evaluate", "serve", "report",
    ]  # fmt: skip
    peeked = cp_ray("peek", "dialogue", "-n", "1", "--root", str(root))
    assert "1 of 2" in peeked
    assert "turns[0]:" in peeked


@pytest.mark.timeout(600)
def test_a_run_is_served_to_the_openai_client(root: Path) -> None:
    import openai

    port = free_port()
    code = "from cp_ray.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(root), "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with server, contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}/v1" in server.stdout.readline()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        assert [m.id for m in client.models.list()] == ["arabic", "german", "base"]
        reply = client.chat.completions.create(
            model="german", messages=[{"role": "user", "content": "Is it so?"}], max_tokens=4
        )
        assert reply.choices[0].message.content
        with pytest.raises(openai.NotFoundError, match="arabic, german"):
            client.chat.completions.create(model="klingon", messages=[{"role": "user", "content": "nuq"}])
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").status == 200
        long = client.completions.create(
            model="german", prompt="Once", max_tokens=100, seed=1, temperature=1.5, stream=True
        )
        next(long)
        server.terminate()
        *_, last = long
        assert last.choices[0].finish_reason in ("length", "stop"), "what is under way is answered first"
        assert server.wait(timeout=300) == 0
