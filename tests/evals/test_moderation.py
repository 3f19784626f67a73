"""Test sets are read with every defect named, and scored as by hand; the originals' mistakes do not come back."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.evals.choose import predicted
from cp_ray.evals.moderation.families import FAMILIES, moderation_chat
from cp_ray.evals.moderation.read import read_task
from cp_ray.evals.moderation.scores import AVERAGE, BASELINES, ModerationConfig, moderation_scores
from cp_ray.evals.moderation.state import SetState, set_states
from cp_ray.evals.moderation.tasks import TASKS, Task, find_tasks
from cp_ray.records import Item, Prediction, Score

CONFIG = ModerationConfig(resamples=500)
BY_ID = {task.id: task for task in TASKS}
HATE, SPAM = BY_ID["arabic/hate_detect_mp"], BY_ID["turkish/spam_detect"]


def written(path: Path, rows: list[tuple[str, str]], task: Task = HATE) -> list[Item]:
    path.write_text("\n".join(json.dumps({task.text: text, "label": label}) for text, label in rows))
    return read_task(task, path, CULTURES[task.culture], rows=None, characters=200)


def test_the_table_has_the_59_tasks_and_the_two_greek_ones() -> None:
    assert len(TASKS) == 61
    assert Counter(t.culture for t in TASKS) == {
        "arabic": 10, "bengali": 6, "chinese": 3, "english": 6, "german": 5, "korean": 6, "portuguese": 5,
        "spanish": 11, "turkish": 7, "greek": 2,
    }  # fmt: skip
    assert len({t.id for t in TASKS}) == len({t.file for t in TASKS}) == 61
    for task in TASKS:
        assert task.culture in CULTURES
        assert len(task.labels) == len(task.asks.options) == len(set(task.asks.options))
    assert {t.family for t in TASKS} == set(FAMILIES)


def test_sets_are_found_in_either_layout(tmp_path: Path) -> None:
    for place in ("data/Arabic/MP/hateSpeech.jsonl", "turkish/spam.jsonl", "Greece/OffensEval2020/OffensEval.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("{}")
    assert [task.id for task, _ in find_tasks(tmp_path)] == [HATE.id, SPAM.id, "greek/offensive_detect"]
    with pytest.raises(ConfigError, match="there is no folder"):
        find_tasks(tmp_path / "none")
    with pytest.raises(ConfigError, match="none of the 61 sets"):
        find_tasks(tmp_path / "turkish")


def test_every_line_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    good = {"id": 1, "comment": "x " * 200, "label": "HS"}
    lines = [
        json.dumps(good).encode(),
        b"",
        b"{not json",
        b'["a list"]',
        json.dumps(good | {"comment": "again"}).encode(),
        '{"id": 2, "comment": "\xe4", "label": "HS"}'.encode("latin-1"),
        json.dumps({"id": 3, "text": "in another field", "label": "HS"}).encode(),
        json.dumps({"id": 4, "comment": float("nan"), "label": "HS"}).encode(),
        json.dumps({"id": 5, "comment": " ", "label": "HS"}).encode(),
        json.dumps({"id": 6, "comment": "x"}).encode(),
        json.dumps({"id": 7, "comment": "x", "label": ""}).encode(),
        json.dumps({"id": 8, "comment": "x", "label": "HATE"}).encode(),
        json.dumps({"id": 9, "comment": "half \ud83d of it", "label": "NOT_HS"}).encode(),
    ]
    path = tmp_path / "hateSpeech.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    items = read_task(HATE, path, CULTURES["arabic"], rows=None, characters=100)
    assert [(int(item.id.rsplit("/")[-1]), item.reject) for item in items] == [
        (1, None), (3, "not JSON"), (4, "no JSON object"), (5, "id of an earlier line"), (6, "not UTF-8"),
        (7, "no text in 'comment'"), (8, "no text in 'comment'"), (9, "empty text"), (10, "no label"),
        (11, "empty label"), (12, "unknown label 'HATE'"), (13, None),
    ]  # fmt: skip
    assert items[1].source == "hateSpeech.jsonl:3"
    assert items[0].messages[-1].content.endswith("x " * 50)
    assert (items[0].gold, items[-1].gold) == ("yes", "no")
    (state,) = set_states(items)
    assert (state.rows, state.used, state.labels) == (12, 2, "no 1, yes 1")
    assert "not UTF-8 1" in state.unused
    wide = tmp_path / "wide.jsonl"
    wide.write_text('{"comment": "ä", "label": "HS"}\n', encoding="utf-16")
    (item,) = read_task(HATE, wide, CULTURES["arabic"], rows=None, characters=100)
    assert item.messages[-1].content.endswith("\n\nä")
    assert len(read_task(HATE, path, CULTURES["arabic"], rows=3, characters=100)) == 3


def test_options_are_listed_from_either_end_by_turns_and_the_task_stays_the_same(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", [("one", "HS"), ("two", "HS")])
    assert first.options == second.options == ("no", "yes")
    asked = [item.messages[-1].content.partition("\n\n")[0] for item in (first, second)]
    assert [a.partition(" Answer")[2] for a in asked] == [" with yes or no.", " with no or yes."]
    (system, user) = moderation_chat(CULTURES["chinese"], FAMILIES["values"], "问题 … 回复1 … 回复2 …", reverse=True)
    assert (system.content, user.content) == ("You are Chinese.", "问题 … 回复1 … 回复2 …")


def state_of(tmp_path: Path, labels: dict[str, int], task: Task = HATE) -> SetState:
    rows = [(f"text {label} {k}", label) for label, n in labels.items() for k in range(n)]
    (state,) = set_states(written(tmp_path / "set.jsonl", rows, task))
    return state


def test_sets_that_tell_nothing_are_in_no_average(tmp_path: Path) -> None:
    assert state_of(tmp_path, {"HS": 60, "NOT_HS": 40}).left_out == ""
    assert state_of(tmp_path, {"NOT_HS": 100}).left_out == "single class: each of the 100 rows that were read is 'no'"
    assert state_of(tmp_path, {"NOT_HS": 996, "HS": 4}).left_out.startswith("nearly a single class: 996 of 1000")
    assert state_of(tmp_path, {"NOT_HS": 970, "HS": 30}).left_out == ""
    assert state_of(tmp_path, {"NOT_HS": 607, "": 218, "HS": 175}).left_out == "218 of 1000 rows have no label"
    assert state_of(tmp_path, {"": 5}).left_out == "no row can be used"
    translated = BY_ID["korean/abusive_detect"]
    assert state_of(tmp_path, {"NOT": 6, "OFF": 4}, translated).left_out == "it says nothing of Korean"


def test_repeated_texts_and_those_under_another_label_are_counted(tmp_path: Path) -> None:
    rows = [("a", "HS"), ("b", "HS"), ("a", "HS"), ("b", "NOT_HS")]
    (state,) = set_states(written(tmp_path / "set.jsonl", rows))
    assert (state.repeated, state.conflicting, state.used) == (2, 1, 4)


def answered(items: list[Item], model: str, say: Callable[[Item], str | None]) -> list[Prediction]:
    rows = []
    for item in items:
        option = say(item)
        shares = tuple(float(o == option) for o in item.options) if option in item.options else ()
        rows.append(predicted(item, model, shares))
    return rows


def test_planted_models_get_the_scores_worked_out_by_hand(tmp_path: Path) -> None:
    # 6 of 10 are hateful.
    items = written(tmp_path / "set.jsonl", [(f"t{k}", "HS" if k < 6 else "NOT_HS") for k in range(10)])
    planted: dict[str, Callable[[Item], str | None]] = {
        "perfect": lambda item: item.gold,
        "reversed": lambda item: item.options[1 - item.options.index(item.gold)],
        "always yes": lambda item: "yes",
        "refuses": lambda item: None,
        "garbage": lambda item: "bananas",
        "half": lambda item: item.gold if int(item.id.rsplit("/")[-1]) % 2 else None,
    }
    predictions = [p for name, say in planted.items() for p in answered(items, name, say)]
    found = {(s.model, s.metric): s for s in moderation_scores(items, predictions, CONFIG) if s.task == HATE.id}
    f1 = {model: found[model, "macro_f1"].value for model in planted}
    # Always yes: F1 of yes is 2·6/(10+6), of no 0. Half answered (3 of 6 and 2 of 4): 2·3/(6+3) and 2·2/(4+2).
    by_hand = {"perfect": 1, "reversed": 0, "always yes": 0.375, "refuses": 0, "garbage": 0, "half": 2 / 3}
    assert f1 == pytest.approx(by_hand, abs=1e-9)
    assert {model: found[model, "unparsable"].value for model in planted} == {
        "perfect": 0, "reversed": 0, "always yes": 0, "refuses": 1, "garbage": 1, "half": 0.5,
    }  # fmt: skip
    assert found["majority", "macro_f1"].value == f1["always yes"]
    assert found["constant", "macro_f1"].value == pytest.approx(2 * 4 / (10 + 4) / 2)
    theirs = binomtest(6, 10).proportion_ci(method="wilson")
    accuracy = found["always yes", "accuracy"]
    assert (accuracy.low, accuracy.value, accuracy.high) == pytest.approx((theirs.low, 0.6, theirs.high), abs=1e-9)


def test_items_to_which_no_answer_came_are_no_wrong_labels(tmp_path: Path) -> None:
    items = written(tmp_path / "set.jsonl", [(f"t{k}", "HS" if k % 2 else "NOT_HS") for k in range(20)])
    right = answered(items, "m", lambda item: item.gold)
    silent = answered(items, "m", lambda item: None)
    lost = [replace(row, reject="no answer: gave up: time-out") for row in silent]
    scores = moderation_scores(items, [*lost[:8], *right[8:]], CONFIG)
    found = {s.metric: s for s in scores if (s.model, s.task) == ("m", HATE.id)}
    assert {name: (found[name].value, found[name].n) for name in ("macro_f1", "accuracy", "unparsable")} == {
        "macro_f1": (1.0, 12), "accuracy": (1.0, 12), "unparsable": (0.0, 12),
    }  # fmt: skip
    assert {s.model for s in moderation_scores(items, lost, CONFIG)} == set(BASELINES)
    withheld = [replace(row, reject="no answer: content_filter") for row in silent]
    scores = moderation_scores(items, [*withheld[:8], *right[8:]], CONFIG)
    assert [s.value for s in scores if (s.model, s.metric) == ("m", "unparsable")] == [8 / 20]


def test_fine_grained_classes_are_kept_apart(tmp_path: Path) -> None:
    """The originals' scorer takes HS2 to HS6 for HS1, so that even a perfect model cannot be right about them."""
    task = BY_ID["arabic/hate_detect_fine-grained"]
    rows = [(f"{label} {k}", label) for label in task.labels for k in range(5)]
    items = written(tmp_path / "set.jsonl", rows, task)
    merged = {o: "origin" if k > 1 else o for k, o in enumerate(task.asks.options)}
    predictions = answered(items, "perfect", lambda item: item.gold)
    predictions += answered(items, "merged", lambda item: merged[item.gold])
    found = {s.model: s.value for s in moderation_scores(items, predictions, CONFIG) if s.metric == "macro_f1"}
    assert found["perfect"] == 1
    assert found["constant"] == pytest.approx(2 * 5 / (35 + 5) / 7), "no hatred"
    assert found["merged"] == pytest.approx((1 + 2 * 5 / (30 + 5)) / 7)
    assert BY_ID["turkish/offensive_detect_finegrained"].labels == ("non", "prof", "grp", "ind", "oth")


@pytest.mark.parametrize(
    ("task", "harmless"), [("english/hate_offens_detect", "neither"), ("chinese/values_choice", None)]
)
def test_the_constant_answerer_finds_nothing_wrong_or_is_left_out(
    tmp_path: Path, task: str, harmless: str | None
) -> None:
    rows = [(f"{label} {k}", label) for label in BY_ID[task].labels for k in range(5)]
    items = written(tmp_path / "set.jsonl", rows, BY_ID[task])
    found = {s.model: s.value for s in moderation_scores(items, [], CONFIG) if s.metric == "accuracy"}
    right = sum(item.gold == harmless for item in items) / len(items)
    assert found.get("constant") == (pytest.approx(right) if harmless else None)
    assert not harmless or right


def test_averages_are_over_the_sets_that_count(tmp_path: Path) -> None:
    other, one_class = BY_ID["arabic/offensive_detect"], BY_ID["arabic/offensive_detect_mp"]
    items = written(tmp_path / "a", [(f"{k}", "HS" if k % 2 else "NOT_HS") for k in range(40)])
    items += written(tmp_path / "b", [(f"{k}", "OFF" if k % 2 else "NOT") for k in range(40)], other)
    items += written(tmp_path / "c", [(f"{k}", "NOT") for k in range(40)], one_class)
    predictions = answered(items, "m", lambda item: item.gold if item.task != other.id else "yes")
    scores = moderation_scores(items, predictions, CONFIG)

    def average(scores: list[Score], model: str) -> Score:
        (found,) = [s for s in scores if (s.model, s.task) == (model, AVERAGE)]
        return found

    assert average(scores, "m").value == pytest.approx((1 + 1 / 3) / 2)
    assert average(scores, "m").n == 2
    assert average(scores, "m").low < average(scores, "m").value < average(scores, "m").high
    assert {s.model for s in scores} == {"m", *BASELINES}
    # A model that was asked of one set only has no figure for the other, and no mean to hold against those of both.
    partly = moderation_scores(items, [p for p in predictions if p.task == HATE.id], CONFIG)
    assert {s.task for s in partly if s.model == "m"} == {HATE.id}


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ConfigError, match="resamples"):
        ModerationConfig(resamples=99)
