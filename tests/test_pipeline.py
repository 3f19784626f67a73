import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from cp_ray.arrow import to_table
from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, execute, fingerprint, pending, select
from cp_ray.records import Opinion, Score
from cp_ray.stages.verify import VerifyConfig


@dataclass(frozen=True)
class Config:
    n: int = 2
    prompt: str = "say it"


def score(k: int) -> Score:
    return Score("base", "german", "survey_heldout", "emd", k / 10, 0.0, 1.0, 10)


def rows(n: int) -> pa.Table:
    return to_table([score(k) for k in range(n)], Score)


def step(name: str = "make", config: Any = None, inputs: tuple[Step, ...] = (), **more: Any) -> Step:
    config = config or Config()
    return Step(name, config, more.pop("run", lambda folder, given: rows(config.n)), inputs, Score, **more)


def do(run: Run, *steps: Step) -> list[str]:
    """Execute, and say which steps were done."""
    done: list[str] = []
    execute(run, steps, on_start=lambda s: done.append(s.name), on_done=lambda *_, **__: None)
    return done


def test_what_changes_the_result_changes_the_fingerprint() -> None:
    base = step()
    assert fingerprint(base) == fingerprint(step(run=lambda folder, given: rows(1)))
    changed = [
        step("other"),
        step(config=Config(prompt="say it again")),
        step(config=Config(n=3)),
        step(inputs=(base,)),
        step(inputs=(step(config=Config(n=3)),)),
    ]
    assert len({fingerprint(s) for s in [base, *changed]}) == 1 + len(changed)


def test_a_prompt_is_part_of_the_fingerprint() -> None:
    config = VerifyConfig("teacher")
    other = dataclasses.replace(config, judge_user=config.judge_user + " Please.")
    assert fingerprint(step(config=config)) != fingerprint(step(config=other))


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from cp_ray.pipeline import Step, fingerprint; from cp_ray.stages.verify import VerifyConfig;"
        "print(fingerprint(Step('verify', VerifyConfig('t'), None)))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert found == {fingerprint(Step("verify", VerifyConfig("t"), lambda f, g: None)) + "\n"}


def test_a_config_may_not_hide_what_cannot_be_hashed() -> None:
    @dataclass(frozen=True)
    class Odd:
        call: Any = print

    with pytest.raises(TypeError, match="plain values"):
        fingerprint(step(config=Odd()))


def test_what_is_done_is_skipped_and_what_follows_a_change_is_not(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    first = step("first")
    second = step("second", inputs=(first,))
    assert do(run, first, second) == ["first", "second"]
    assert do(Run(str(tmp_path / "run")), first, second) == []
    new = step("second", Config(prompt="new"), (first,))
    third = step("third", inputs=(new,))
    assert do(run, first, new, third) == ["second", "third"]


def test_a_step_that_was_cut_off_is_done_anew_and_leaves_its_rows_once(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))

    def cut_off(folder: Folder, given: Any) -> pa.Table:
        (tmp_path / "run" / Path(folder.path).name / "rows").mkdir()
        import pyarrow.parquet as pq

        pq.write_table(rows(5), f"{folder.path}/rows/left-over.parquet")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        do(run, step(run=cut_off))
    assert run.manifest(step()) is None
    assert do(run, step()) == ["make"]
    assert run.folder(step()).read(Score) == [score(0), score(1)]
    run.do(step())
    assert run.folder(step()).table().num_rows == 2


def test_rejects_are_kept_and_counted(tmp_path: Path) -> None:
    def opinion(k: int, reject: str | None) -> Opinion:
        return Opinion(f"o/{k}", "d", "s", "german", "Lukas", "c", "q", "text", reject=reject)

    made = [opinion(0, None), opinion(1, "too short"), opinion(2, "too short"), opinion(3, "irrelevant")]
    run = Run(str(tmp_path / "run"))
    manifest = run.do(Step("verify", Config(), lambda f, g: to_table(made, Opinion), rows=Opinion))
    assert manifest.rows == 1
    assert manifest.rejects == {"too short": 2, "irrelevant": 1}
    assert run.done()[0].read(Opinion) == made


@pytest.mark.parametrize("small_bytes", [0, 2**20], ids=["in parallel", "by the driver"])
def test_a_dataset_is_written_sorted_by_id_whatever_order_it_came_in(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    import ray.data

    monkeypatch.setattr("cp_ray.folder._SMALL_BYTES", small_bytes)

    made = [Opinion(f"o/{k}", "d", "s", "german", "Lukas", "c", "q", "t") for k in (3, 1, 2, 0)]

    def run_step(folder: Folder, given: Any) -> Any:
        return ray.data.from_arrow([to_table(made[:2], Opinion), to_table(made[2:], Opinion)])

    run = Run(str(tmp_path / "run"))
    run.do(Step("opinions", Config(), run_step, rows=Opinion))
    assert [o.id for o in run.done()[0].read(Opinion)] == ["o/0", "o/1", "o/2", "o/3"]
    empty = Step("none", Config(), lambda f, g: ray.data.from_arrow(to_table([], Opinion)), rows=Opinion)
    assert run.do(empty).rows == 0
    assert run.folder(empty).read(Opinion) == []


def test_what_a_step_needs_is_up_once_for_its_neighbours_and_down_for_the_rest(tmp_path: Path) -> None:
    said: list[str] = []

    class Server:
        def check(self) -> None:
            said.append("checked")

        def __enter__(self) -> None:
            said.append("up")

        def __exit__(self, *_: object) -> None:
            said.append("down")

    server = Server()

    def telling(name: str, **more: Any) -> Step:
        def run_step(folder: Folder, given: Any) -> pa.Table:
            said.append(name)
            return rows(1)

        return step(name, run=run_step, **more)

    a, b, c = telling("a", within=server), telling("b", within=server), telling("c")
    run = Run(str(tmp_path / "run"))
    assert pending(run, [a, b, c]) == [a, b, c]
    do(run, a, b, c)
    assert said == ["checked", "up", "a", "b", "down", "c"], "checked once, before anything"
    assert pending(run, [a, b, c]) == []
    do(run, a, b, c)
    assert said == ["checked", "up", "a", "b", "down", "c"]
    failing = step("failing", run=lambda f, g: 1 / 0, within=server)
    with contextlib.suppress(ZeroDivisionError):
        do(run, failing)
    assert said[-2:] == ["up", "down"]


def test_published_files_stand_at_the_root(tmp_path: Path) -> None:
    page = Step("report", Config(), lambda f, g: f.write_text("report.html", "<p>"), publish=("report.html",))
    run = Run(str(tmp_path / "run"))
    do(run, page)
    (tmp_path / "run" / "report.html").unlink()
    assert do(run, page) == []
    assert (tmp_path / "run" / "report.html").read_text() == "<p>"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("run.json", '{"format": 99}', "format 99, this version reads 1"),
        ("run.json", "{torn", "run.json is damaged"),
        ("run.json", "[]", "run.json is damaged"),
        ("run.json", '{"format": "\xff"}', "run.json is damaged"),
        ("thesis.doc", "precious", "not a run folder"),
    ],
)
def test_a_folder_of_another_kind_is_refused_and_left_alone(tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunFolderError, match=said) as raised:
        Run(str(tmp_path), "run")
    assert str(raised.value).startswith("run: ")
    assert "--root" not in str(raised.value), "who has no such option is told of none"
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_bytes() == text.encode("latin-1")


def test_a_damaged_manifest_is_told_in_one_line(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    do(run, step())
    manifest = Path(run.folder(step()).path) / "manifest.json"
    listed = json.dumps({**json.loads(manifest.read_text()), "config": []})
    for text in ("{", json.dumps({"name": "make"}), json.dumps({"nonsense": 1}), '{"name": "\xff"}', listed):
        manifest.write_bytes(text.encode("latin-1"))
        with pytest.raises(RunFolderError, match="damaged"):
            run.manifest(step())


def test_what_a_manifest_lacks_is_told_where_it_is_looked_for(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    do(run, step())
    found = run.manifest(step())
    assert found is not None
    assert found.config["n"] == 2
    with pytest.raises(RunFolderError, match=r"manifest.json is damaged \(it lacks 'base_model'\); delete that folder"):
        found.config["base_model"]


@pytest.mark.parametrize("damage", ["gone", "cut off", "overwritten"])
def test_damaged_rows_are_told_in_one_line(tmp_path: Path, damage: str) -> None:
    run = Run(str(tmp_path / "run"))
    do(run, step())
    (file,) = (Path(run.folder(step()).path) / "rows").iterdir()
    whole = file.read_bytes()
    if damage == "gone":
        shutil.rmtree(file.parent)
    else:
        file.write_bytes(whole[:100] if damage == "cut off" else whole[:4] + b"\xff" * 40 + whole[44:])
    with pytest.raises(RunFolderError, match=r"rows cannot be read \(.+\); delete that step's folder") as raised:
        run.folder(step()).read(Score)
    assert "\n" not in str(raised.value)


def test_any_filesystem_will_do(tmp_path: Path) -> None:
    folder = Folder(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "a/b")
    assert folder.read_text("x") is None
    folder.write_text("x", "1")
    folder.write_text("x", "2")
    assert folder.read_text("x") == "2"
    folder.clear()
    folder.clear()
    assert not (tmp_path / "a" / "b").exists()
    run = Run("file://" + str(tmp_path / "run"))
    do(run, step())
    assert (tmp_path / "run" / f"make-{fingerprint(step())}" / "manifest.json").is_file()
    with pytest.raises(ConfigError, match="cannot be opened"):
        Run("nosuch://bucket/run")


def test_until_stops_after_a_step_and_all_of_its_parts() -> None:
    steps = [step("examples"), step("train.arabic"), step("train.german"), step("predict")]
    assert [s.name for s in select(steps, "train")] == ["examples", "train.arabic", "train.german"]
    assert [s.name for s in select(steps, "train.arabic")] == ["examples", "train.arabic"]
    assert select(steps, None) == steps
    with pytest.raises(ConfigError, match="the steps are examples, train, predict"):
        select(steps, "trian")


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.part"))
