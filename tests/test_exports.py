"""What a run exports is loaded as its users load it, and checked as OpenAI checks it."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError, CpRayError, RunFolderError
from cp_ray.evals.report import ReportConfig, render
from cp_ray.exports.chats import openai_lines, sharegpt_text
from cp_ray.exports.command import export_run
from cp_ray.exports.config import ExportConfig, Made
from cp_ray.exports.export import made_by, remarks, write_export
from cp_ray.exports.openai_rules import MAX_TOKENS, check_openai
from cp_ray.folder import LABEL, Folder, Manifest, open_folder
from cp_ray.llm.ledger import LedgerTotals
from cp_ray.pipeline import Run, Step
from cp_ray.records import Example, Message, Opinion, Seed
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.mixed import MixedConfig, mix
from cp_ray.stages.seeds import SeedsConfig
from cp_ray.survey.read import WVS7

ROOT = Path(__file__).parent.parent
CONFIG = ExportConfig(tuple(CULTURES[c] for c in ("arabic", "german", "greek")), WVS7)
MADE = Made((Manifest("verify", "0a1b2c3d4e", {"teacher": "smollm2"}, {}, 1, {"too short": 2}),), ("smollm2",))


def seed(culture: str, number: int, split: str = "train") -> Seed:
    return Seed(f"{culture}/Q{number}", culture, "wvs7", f"Q{number}", "topic", f"Is it Q{number}?", ("Yes", "No"),
                (0.7, 0.3), 900 + number, "Yes", split)  # type: ignore[arg-type]  # fmt: skip


def rows(*cultures: str) -> tuple[list[Seed], list[Example]]:
    """A held-out question, two training questions, and an opinion, of each culture."""
    seeds = [seed(c, k, "heldout" if k == 0 else "train") for c in cultures for k in range(3)]
    opinions = [
        Opinion(f"{c}/Q1/0/1/0", f"{c}/Q1/0", f"{c}/Q1", c, "Lukas", "claim", "Is it Q1?", "So\u2028ist \"es\", ja: ن.")
        for c in cultures
    ]  # fmt: skip
    return seeds, make_examples(seeds, opinions, ExamplesConfig(CONFIG.cultures, answers=8))


def export(root: Path, *cultures: str) -> Folder:
    out = open_folder(str(root))
    write_export(out, *rows(*cultures), MADE, CONFIG)
    return out


LOADED = """
import json, sys, datasets
root, cache = sys.argv[1:]
def load(*given, **options):
    return list(datasets.load_dataset(*given, split="train", cache_dir=cache, **options))
print(json.dumps({
    "configs": datasets.get_dataset_config_names(f"{root}/huggingface"),
    "default": load(f"{root}/huggingface"),
    "arabic": load(f"{root}/huggingface", "arabic"),
    **{f"openai/{name}": load("json", data_files=f"{root}/openai/{name}.jsonl") for name in ("all", "arabic")},
    **{f"sharegpt/{name}": load("json", data_files=f"{root}/sharegpt/{name}.json") for name in ("all", "arabic")},
}))
"""


def test_everything_loads_with_the_datasets_library_offline(tmp_path: Path) -> None:
    export(tmp_path / "out", "arabic", "german")
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "out"), str(tmp_path / "cache")],
        capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    loaded = json.loads(ended.stdout)
    examples = {e.id: e for e in rows("arabic", "german")[1]}
    assert loaded["configs"] == ["all", "arabic", "german"]
    assert len(loaded["default"]) == len(examples) == 34
    assert {row["culture"] for row in loaded["arabic"]} == {"arabic"}
    for row in loaded["default"]:
        found = examples[row["id"]]
        assert [(m["role"], m["content"]) for m in row["messages"]] == [(m.role, m.content) for m in found.messages]
        assert row["parents"] == list(found.parents)
    for name, parquet in (("all", "default"), ("arabic", "arabic")):
        chats = [row["messages"] for row in loaded[parquet]]
        assert [row["messages"] for row in loaded[f"openai/{name}"]] == chats
        names = {"system": "system", "human": "user", "gpt": "assistant"}
        shared = [row["conversations"] for row in loaded[f"sharegpt/{name}"]]
        assert [[{"role": names[m["from"]], "content": m["value"]} for m in chat] for chat in shared] == chats


def test_all_cultures_are_mixed_in_an_order_that_is_always_the_same(tmp_path: Path) -> None:
    both, again, alone = (export(tmp_path / n, *c) for n, c in
                          (("a", ("arabic", "german")), ("b", ("german", "arabic")), ("c", ("german",))))  # fmt: skip
    text = both.read_text("openai/all.jsonl")
    assert text == again.read_text("openai/all.jsonl")
    assert both.read_text("openai/german.jsonl") == alone.read_text("openai/german.jsonl")
    systems = [json.loads(line)["messages"][0]["content"] for line in (text or "").splitlines()]
    assert Counter(systems) == {"You are Arab.": 17, "You are German.": 17}
    assert sum(a != b for a, b in pairwise(systems)) > 8


def test_the_card_tells_where_the_rows_come_from(tmp_path: Path) -> None:
    card = export(tmp_path / "out", "arabic", "german").read_text("huggingface/README.md") or ""
    for said in (
        "wave 7 of the World Values Survey", "doi:10.14281/18241.24", "`smollm2`", "2 too short",
        "| arabic | Arabic | EGY, IRQ, JOR, LBN, LBY, MAR, TUN | 16 | 1 | 17 |", "| greek | Greek | GRC | 0 | 0 | 0 |",
        "in every culture alike: Q0 (1 in all)", "(34 pairs)", "A country is not a culture",
        "between 901 and 902 people",
        "2 of 34 rows were written by a language model",
    ):  # fmt: skip
        assert said in card


def test_the_card_tells_of_questions_that_nobody_was_asked(tmp_path: Path) -> None:
    seeds = [
        replace(s, question=f"Is it {s.question_id} that {said}?")
        for s, said in zip(rows("german")[0], ("may be", "is so", "was thus"), strict=True)
    ]
    made = make_examples(seeds, [], ExamplesConfig(CONFIG.cultures, answers=8), mixtures=mix(seeds, MixedConfig(1)))
    write_export(out := open_folder(str(tmp_path)), seeds, made, MADE, CONFIG)
    card = out.read_text("huggingface/README.md") or ""
    assert "16 rows ask what nobody was asked" in card
    assert "| culture | language | countries | answer | mixed | rows |" in card
    assert "were written by a language model" not in card


def test_a_culture_without_rows_is_told_and_takes_no_other_with_it(tmp_path: Path) -> None:
    out = export(tmp_path / "out", "arabic", "german")
    assert remarks(out, CONFIG) == ["no training row of greek"]
    assert not (tmp_path / "out" / "openai" / "greek.jsonl").exists()
    empty = export(tmp_path / "empty")
    assert remarks(empty, CONFIG) == ["there are no training rows; the card alone was written"]
    assert "There are no rows" in (empty.read_text("huggingface/README.md") or "")


def test_a_held_out_question_in_a_row_stops_the_export(tmp_path: Path) -> None:
    _, examples = rows("german")
    with pytest.raises(ValueError, match="holds the held-out question Q1"):
        write_export(open_folder(str(tmp_path)), [seed("german", 1, "heldout")], examples, MADE, CONFIG)


def test_an_export_is_written_to_any_filesystem() -> None:
    import pyarrow.fs as pafs

    out = Folder(pafs._MockFileSystem(), "bucket/export")
    write_export(out, *rows("german"), MADE, CONFIG)
    found = {info.path for info in out.filesystem.get_file_info(pafs.FileSelector(out.path, recursive=True))}
    assert "bucket/export/huggingface/data/german/train.parquet" in found
    assert remarks(out, CONFIG) == ["no training row of arabic, greek"]


def chat(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": list(messages), **more})


USER, ANSWER = {"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "Yes"}
GOOD = chat({"role": "system", "content": "You are German."}, USER, ANSWER)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "is empty"),
        (b"\xff" + GOOD.encode(), "is not UTF-8 (byte 1)"),
        (GOOD[:-1], "is not JSON (Expecting ',' delimiter, character "),
        ("[]", "must be an object with the key 'messages', got []"),
        ("{}", "messages must be a list of at least one message, got None"),
        (chat(), "messages must be a list of at least one message, got []"),
        (chat(USER, ANSWER, id=1), "unknown key 'id'; only 'messages' is known"),
        (chat(USER, {**ANSWER, "speaker": "x"}), "message 2: unknown key 'speaker'; known are role, "),
        (chat({"role": "human", "content": "So?"}, ANSWER), "message 1: role must be system, user or "),
        (chat({"content": "So?"}, ANSWER), "message 1: role must be system, user or assistant, got None"),
        (chat(USER, {"role": "assistant", "content": " "}), "message 2: content must be text that is not empty"),
        (chat(USER, {"role": "assistant", "content": None}), "message 2: content must be text that is not empty"),
        (chat(USER, {"role": "assistant", "content": "\ud83d"}), "message 2: content must be Unicode, and holds"),
        (chat(USER, ANSWER, USER), "the last message must be the assistant's"),
        (chat({**USER, "weight": 0}, ANSWER), "message 1: weight must be 0 or 1, on an assistant's message"),
        (chat(USER, {**ANSWER, "weight": 0.5}), "message 2: weight must be 0 or 1, on an assistant's message, got 0.5"),
        (chat(USER, {**ANSWER, "name": 3}), "message 2: name must be text, got 3"),
        (chat(USER, {**ANSWER, "content": "a" * 4 * MAX_TOKENS}), "must have at most 65536 tokens, has about 65547"),
        ("9" * 5000, "cannot be read: a number is too long"),
        ("[" * 100_000, "cannot be read: a number is too long, or brackets"),
    ],
)  # fmt: skip
def test_a_breach_of_openai_s_rules_is_told_with_its_line(line: str | bytes, said: str) -> None:
    (breach,) = check_openai([*[GOOD] * 9, line])
    assert breach.startswith(f"line 10: {said}")
    assert "\n" not in breach
    assert len(breach) < 160


def test_openai_wants_ten_chats() -> None:
    assert check_openai([GOOD] * 10) == []
    assert check_openai(line.encode() for line in [GOOD] * 9) == ["at least 10 chats are needed, got 9"]
    assert check_openai([]) == ["at least 10 chats are needed, got 0"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["role", "content", "weight"]), inner),
)


@given(st.binary() | st.text() | JSON.map(json.dumps) | st.builds(chat, JSON, JSON) | st.just(GOOD))
def test_any_line_is_judged_in_whole_lines(line: str | bytes) -> None:
    breaches = check_openai([GOOD] * 9 + [line])
    assert (breaches == []) == (line == GOOD)
    assert all(breach.startswith("line 10: ") and len(breach.splitlines()) == 1 for breach in breaches)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=3, max_size=3))
def test_whatever_is_said_survives_every_form(said: list[str]) -> None:
    messages = tuple(Message(r, text) for r, text in zip(("system", "user", "assistant"), said, strict=True))
    example = Example("german/Q1/answer/0", "german", "answer", "Q1", messages, (), "train")
    lines = openai_lines([example] * 10).splitlines()
    assert check_openai(lines) == []
    assert [m["content"] for m in json.loads(lines[-1])["messages"]] == said
    (row,) = json.loads(sharegpt_text([example]))
    assert [m["from"] for m in row["conversations"]] == ["system", "human", "gpt"]
    assert [m["value"] for m in row["conversations"]] == said


def test_too_few_rows_for_openai_are_told_by_the_step(tmp_path: Path) -> None:
    out, (seeds, examples) = open_folder(str(tmp_path)), rows("german")
    write_export(out, seeds, examples[:9], MADE, ExportConfig((CULTURES["german"],), WVS7))
    assert remarks(out, ExportConfig((CULTURES["german"],), WVS7)) == [
        f"OpenAI would refuse openai/{name}.jsonl: at least 10 chats are needed, got 9" for name in ("german", "all")
    ]


def test_a_published_folder_is_what_the_last_configuration_made(tmp_path: Path) -> None:
    run = Run(str(tmp_path))

    def step(*cultures: str) -> Step:
        config = ExportConfig(tuple(CULTURES[c] for c in cultures), WVS7)

        def do(folder: Folder, inputs: Mapping[str, Folder]) -> None:
            write_export(folder / "export", *rows(*cultures), MADE, config)

        return Step("export", config, do, publish=("export",))

    def published() -> list[str]:
        return sorted(path.name for path in (tmp_path / "export" / "openai").iterdir())

    both, one = step("arabic", "german"), step("german")
    for made, files in ((both, ["all.jsonl", "arabic.jsonl", "german.jsonl"]), (one, ["all.jsonl", "german.jsonl"])):
        run.do(made)
        run.publish(made)
        assert published() == files
    run.publish(both)
    assert published() == ["all.jsonl", "arabic.jsonl", "german.jsonl"]
    (tmp_path / "export" / "openai" / "all.jsonl").unlink()
    run.publish(both)
    assert published() == ["arabic.jsonl", "german.jsonl"], "what is there already is not copied again"
    (tmp_path / "export" / LABEL).write_text("")
    run.publish(both)
    assert published() == ["all.jsonl", "arabic.jsonl", "german.jsonl"], "a copy that was cut off is made again"
    (tmp_path / "export" / LABEL).unlink()
    with pytest.raises(RunFolderError, match="export is not empty and no earlier copy"):
        run.publish(both)
    assert published() == ["all.jsonl", "arabic.jsonl", "german.jsonl"], "a user's folder is left alone"
    assert len(run.done()) == 2


def finished(root: Path, *cultures: str) -> Run:
    """A run that has come to its training rows."""
    seeds, examples = rows(*cultures)
    run = Run(str(root))
    run.begin()
    config = SeedsConfig(CONFIG.cultures, "0123456789abcdef", WVS7)
    first = Step("seeds", config, lambda folder, inputs: to_table(seeds, Seed), rows=Seed)
    made = Step(
        "examples",
        ExamplesConfig(CONFIG.cultures),
        lambda folder, inputs: to_table(examples, Example),
        (first,),
        Example,
    )
    run.do(first)
    run.do(made)
    return run


def cp_ray_export(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from cp_ray.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "export", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_run_is_exported_from_the_command_line(tmp_path: Path) -> None:
    finished(tmp_path / "run", "arabic", "german")
    ended = cp_ray_export(str(tmp_path / "run"), "--to", str(tmp_path / "out"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"no training row of greek\n{tmp_path / 'out'}\n"
    assert export(tmp_path / "same", "arabic", "german").read_text("openai/all.jsonl") == (
        tmp_path / "out" / "openai" / "all.jsonl"
    ).read_text(encoding="utf-8")
    card = (tmp_path / "out" / "huggingface" / "README.md").read_text(encoding="utf-8")
    assert "| seeds | 6 |" in card


def test_a_finished_export_is_copied_and_an_old_one_is_not(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "german")
    (folder,) = [f for f in run.done() if (m := f.manifest()) and m.name == "examples"]
    manifest = folder.manifest()
    assert manifest is not None

    def step(text: str, fingerprint: str) -> None:
        """A finished export of the examples of this fingerprint."""
        made = run.root / f"export-{text}"
        (made / "export").write_text("README.md", text)
        given = Manifest("export", text, {}, {"examples": fingerprint}, remarks=["so it is"], finished="2026-01-01")
        made.write_text("manifest.json", json.dumps(asdict(given)))

    step("old", "0000000000")
    target, _ = export_run(str(tmp_path / "run"), str(tmp_path / "one"))
    assert target.read_text("README.md") is None, "made, not copied"
    step("own", manifest.fingerprint)
    target, said = export_run(str(tmp_path / "run"))
    assert (target.path, target.read_text("README.md")) == (str(tmp_path / "run" / "export"), "own")
    assert said == ["so it is"]
    assert export_run(str(tmp_path / "run"), str(tmp_path / "one"))[0].read_text("README.md") == "own"


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "german")
    for to, said in (
        (str(ROOT), "is not empty and no earlier copy"),
        (str(tmp_path / "run"), "is not empty and no earlier copy"),
        (str(ROOT / "README.md"), "README.md cannot be written"),
        (str(ROOT / "README.md" / "x"), "README.md/x cannot be written"),
        ("nosuch://x", "to: 'nosuch://x' cannot be opened"),
    ):
        with pytest.raises(CpRayError) as raised:
            export_run(str(tmp_path / "run"), to)
        assert said in str(raised.value)
    with pytest.raises(ConfigError, match="has no training rows; run a recipe up to its step examples first"):
        export_run(str(tmp_path / "nothing"))
    (seeds,) = [f for f in run.done() if (m := f.manifest()) and m.name == "seeds"]
    seeds.clear()
    with pytest.raises(RunFolderError, match="the step 'seeds' is gone"):
        export_run(str(tmp_path / "run"), str(tmp_path / "out"))
    for arguments in (["no/such/run"], [str(ROOT / "tests")], []):
        ended = cp_ray_export(*arguments)
        assert (ended.returncode, ended.stderr.count("\n"), ended.stdout) == (2, 1, "")
        assert "--root" not in ended.stderr


def test_the_report_tells_of_the_training_rows(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "arabic", "german")
    inputs = {m.name: f for f in run.done() if (m := f.manifest())}
    page, _ = render(inputs, str(tmp_path / "run"), ReportConfig(CONFIG.cultures, WVS7))
    assert '<th scope="row">german</th><td class="n">16</td><td class="n">1</td><td class="n">17</td>' in page
    assert '<th scope="row">greek</th><td class="n">0</td><td class="n">0</td><td class="n">0</td>' in page
    assert "every row was held against every held-out question (34 pairs)" in page


def test_the_card_names_the_teachers_of_its_own_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(str(tmp_path))
    folder.write_text("manifest.json", json.dumps(asdict(Manifest("verify", "0a", {"teacher": "first"}, {}))))
    paid = [LedgerTotals("verify", "its-fallback"), LedgerTotals("open.m", "a-judge")]
    monkeypatch.setattr("cp_ray.llm.ledger.summary", lambda root: paid)
    assert made_by({"verify": folder}, str(tmp_path)).teachers == ("first", "its-fallback")
