"""The labelled pairs of survey questions and other wordings are complete, balanced and split by seed."""

import json
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks" / "paraphrases"
KINDS = {
    "same": {"structure", "synonyms", "register", "double-negation", "converse"},
    "changed": {"negation", "antonym", "dropped", "quantity", "direction", "role", "drift", "wrong-synonym"},
}


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["seen", "unseen"])
def test_fields_labels_and_kinds(name: str) -> None:
    rows = read(name)
    assert len(rows) == 200
    assert Counter(row["label"] for row in rows) == {"same": 100, "changed": 100}
    assert {row["kind"] for row in rows} == KINDS["same"] | KINDS["changed"]
    for row in rows:
        assert list(row) == ["id", "seed", "text", "label", "kind"], row["id"]
        assert row["kind"] in KINDS[row["label"]], row["id"]
        assert 6 <= len(row["seed"].split()) <= 30, row["id"]
        assert row["text"].strip(), row["id"]
        assert row["text"] != row["seed"], row["id"]


def test_no_seed_in_both_files() -> None:
    assert not {row["seed"] for row in read("seen")} & {row["seed"] for row in read("unseen")}


def test_no_two_equal_pairs() -> None:
    rows = read("seen") + read("unseen")
    assert len({row["id"] for row in rows}) == 400
    assert len({(row["seed"].lower(), row["text"].lower()) for row in rows}) == 400
