"""The labelled pairs of survey questions and other wordings are complete, balanced and split by seed."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks" / "paraphrases"
KINDS = {
    "same": {"structure", "synonyms", "register", "double-negation", "converse"},
    "changed": {"negation", "antonym", "dropped", "quantity", "direction", "role", "drift", "wrong-synonym"},
}


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "pairs"), [("seen", 1546), ("unseen", 200)])
def test_fields_labels_and_kinds(name: str, pairs: int) -> None:
    rows = read(name)
    assert len(rows) == pairs
    share = sum(row["label"] == "same" for row in rows) / pairs
    assert 0.48 < share < 0.52
    assert {row["kind"] for row in rows} == KINDS["same"] | KINDS["changed"]
    for row in rows:
        assert list(row) == ["id", "seed", "text", "label", "kind"], row["id"]
        assert row["kind"] in KINDS[row["label"]], row["id"]
        assert row["text"].strip(), row["id"]
        assert row["text"] != row["seed"], row["id"]


def test_no_seed_in_both_files() -> None:
    def seeds(name: str) -> set[str]:
        return {row["seed"].lower().strip(" .?!") for row in read(name)}

    assert not seeds("seen") & seeds("unseen")


def test_every_pair_is_there_once() -> None:
    rows = read("seen") + read("unseen")
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["seed"].lower(), row["text"].lower()) for row in rows}) == len(rows)


def test_the_filter_was_grown_from_the_seen_pairs() -> None:
    lines = (FOLDER.parent.parent / "cp_ray" / "paraphrase" / "pairs.csv").read_text().splitlines()
    assert [line[0] == "1" for line in lines[1:]] == [row["label"] == "same" for row in read("seen")]
