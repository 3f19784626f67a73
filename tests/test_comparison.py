"""cp-ray compare over run folders with planted rows: what is compared, and what is not and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cp_ray.arrow import to_table
from cp_ray.comparison.command import compared
from cp_ray.cultures import CULTURES
from cp_ray.errors import RunFolderError
from cp_ray.evals.benchmarks.scores import BenchmarksConfig, Solved
from cp_ray.evals.bias import OpenAnswer
from cp_ray.evals.choose import predicted
from cp_ray.evals.forgetting import ForgettingConfig
from cp_ray.evals.hofstede.items import HofstedeConfig, hofstede_items, read_items
from cp_ray.evals.hofstede.scores import HofstedeScoring, Truth
from cp_ray.evals.judge import Judgement
from cp_ray.evals.learning import Exam, LearnerConfig, Lesson, Said
from cp_ray.evals.results.sections import Section
from cp_ray.evals.survey import PredictConfig, survey_items
from cp_ray.folder import Folder, write_rows
from cp_ray.pipeline import Run, Step
from cp_ray.records import Item, Message, Prediction, QuestionScore, Score, Seed, TextLoss
from cp_ray.steps.suite import BenchmarkedBy, ForgottenBy
from tests.doing import do

TRUTH = (Truth("german", (40.0, *[None] * 5)), Truth("korean", (60.0, *[None] * 5)))


@dataclass(frozen=True)
class Of:
    what: str = ""


def step(
    name: str,
    rows: Sequence[Any],
    row: type,
    inputs: tuple[Step, ...] = (),
    config: Any = None,
    beside: tuple[str, Sequence[Any], type] | None = None,
) -> Step:
    """A step that makes these rows; `beside`: others, in a folder of this name within its own."""

    def run(folder: Folder, given: Any) -> pa.Table:
        if beside is not None:
            name, others, kind = beside
            write_rows(to_table(others, kind), folder / name / "rows", kind)
        return to_table(rows, row)

    return Step(name, config or Of(name), run, inputs, row)


GERMAN = CULTURES["german"]
ASKED = [
    Seed(f"german/Q{k}", "german", "s", f"Q{k}", "t", f"Is it so in {k}?", ("yes", "no"), (0.75, 0.25), 9, "yes",
         "heldout")
    for k in range(8)
]  # fmt: skip


def distances(far: float, seeds: Sequence[Seed]) -> tuple[str, Sequence[Any], type]:
    rows = [QuestionScore("german", "german", s.question_id, "t", s.split, far, far) for s in seeds]
    return "questions", rows, QuestionScore


def survey(far: float, seeds: Sequence[Seed] = ASKED, wordings: int = 1) -> list[Step]:
    """As `cp-ray evaluate` leaves it."""
    asked = step("survey_seeds", seeds, Seed)
    items = step("survey_items", survey_items(seeds, (GERMAN,), wordings), Item, (asked,))
    choices = step("survey_choices", [], Prediction, (items,), Of(str(far)))
    scores = step("survey_scores", [], Score, (asked, choices), beside=distances(far, seeds))
    return [asked, items, choices, scores]


def trained(far: float, wordings: int = 1) -> list[Step]:
    """As a recipe leaves it."""
    asked = step("seeds", ASKED, Seed)
    predict = step("predict", [], Prediction, (asked,), PredictConfig("b", ("german",), (GERMAN,), wordings))
    return [asked, predict, step("evaluate", [], Score, (asked, predict), beside=distances(far, ASKED))]


def forgetting(nats: float, texts: Sequence[str], tokens: int = 10, own: float | None = None) -> list[Step]:
    rows = [TextLoss("base", str(k), tokens, nats, tokens) for k, _ in enumerate(texts)]
    rows += [TextLoss("german", str(k), tokens, own, 0) for k, _ in enumerate(texts) if own is not None]
    config = ForgottenBy(ForgettingConfig("b", (), tuple(texts)), ())
    return [step("forgetting_scores", [], Score, config=config, beside=("texts", rows, TextLoss))]


def benchmarks(right: bool, files: Sequence[tuple[str, str]], harness: str = "0.4.9") -> list[Step]:
    """A base that solves all of each benchmark's six items, or none."""
    rows = [Solved("base", name, str(k), right) for name, _ in files for k in range(6)]
    config = BenchmarkedBy(BenchmarksConfig("b", (), tuple(files), harness), ())
    return [step("benchmarks_scores", [], Score, config=config, beside=("solved", rows, Solved))]


def hofstede(koreans: int, *, seed: int = 0, truth: tuple[Truth, ...] = TRUTH) -> list[Step]:
    """All say 3; but the Koreans say this to item 7."""
    config = HofstedeConfig((CULTURES["german"], CULTURES["korean"]), read_items(), seed=seed)
    rows = hofstede_items(config)
    said = [
        predicted(i, i.culture, tuple(float(k == (koreans if (i.culture, i.source) == ("korean", "7") else 3))
                                      for k in range(1, 6)))
        for i in rows
    ]  # fmt: skip
    items = step("hofstede_items", rows, Item, config=config)
    choices = step("hofstede_choices", said, Prediction, (items,), Of(f"{koreans}"))
    return [items, choices, step("hofstede_scores", [], Score, (choices,), HofstedeScoring(truth))]


def moderation(lost: int) -> list[Step]:
    """A model that is right about all texts to which it answers."""
    rows = [
        Item(f"s/{k}", "german", "s", (Message("user", str(k)),), ("no", "yes"), ("no", "yes")[k % 2])
        for k in range(20)
    ]
    said = [
        predicted(i, "m", (float(i.gold == "no"), float(i.gold == "yes"))) if k >= lost
        else replace(predicted(i, "m", ()), reject="no answer: gave up: time-out")
        for k, i in enumerate(rows)
    ]  # fmt: skip
    items = step("moderation_items", rows, Item)
    choices = step("moderation_choices.m", said, Prediction, (items,), Of(str(lost)))
    return [items, choices, step("moderation_scores", [], Score, (choices,))]


def open_answers(text: str, verdict: str, asked: str = "Why?", lost: int = 0) -> list[Step]:
    """`lost`: to so many of the eight questions the second model came to no answer."""
    ids = [f"open/german/Q{k}" for k in range(8)]
    items = step(
        "open_items", [Item(id, "german", "open", (Message("user", asked),), ()) for id in ids], Item, config=Of(asked)
    )
    said = {
        "one": [OpenAnswer(f"one/{id}", "one", "german", id, text) for id in ids],
        "two": [
            OpenAnswer(f"two/{id}", "two", "german", id, *(("", "no answer") if k < lost else ("They work.",)))
            for k, id in enumerate(ids)
        ],
    }  # fmt: skip
    answers = [step(f"open_answers.{m}", rows, OpenAnswer, (items,), Of(f"{text} {lost}")) for m, rows in said.items()]
    rows = [Judgement(f"j/{id}", f"key/{id}", "german", "j", "one", "two", verdict) for id in ids]
    judged = step("open_judgements.j", rows, Judgement, tuple(answers), Of(verdict))
    # What an earlier configuration left in the folder is of no matter.
    stale = step("open_answers.old", [OpenAnswer("o", "two", "german", ids[0], "They lie.")], OpenAnswer)
    return [items, *answers, judged, stale, step("open_scores", [], Score, (*answers, judged))]


def learning(after: str, model: str = "l") -> list[Step]:
    exam = tuple(Exam(f"Q{k}", f"{k}?", ("yes", "no"), (1.0, 0.0)) for k in range(2))
    rows = [
        Lesson(f"t/german/{k}", "german", "Germans", "t", k, "asked", exam, ("0?",), (Said("tutor", "."),),
               ("no", "no"), (after, "no"))
        for k in range(8)
    ]  # fmt: skip
    talks = step("talks.t", rows, Lesson, config=Of(after))
    exams = step("exam_after.t", rows, Lesson, (talks,), LearnerConfig(model))
    return [talks, exams, step("learning_scores", [], Score, (exams,))]


def run_of(root: Path, made: Sequence[Step]) -> str:
    do(Run(str(root)), made)
    return str(root)


def sections(root: Path, first: Sequence[Step], second: Sequence[Step]) -> dict[str, Section]:
    found = compared(run_of(root / "a", first), run_of(root / "b", second))
    return {section.title: section for section in found}


def test_a_run_s_dimensions_open_answers_and_lessons_are_held_against_another_s(tmp_path: Path) -> None:
    found = sections(
        tmp_path,
        [*hofstede(3), *open_answers("They work.", "tie"), *learning("no")],
        [*hofstede(4), *open_answers("They are kind.", "first"), *learning("yes")],
    )
    dimensions = found["Hofstede's dimensions (VSM 2013)"]
    assert dimensions.said == ("own, all cultures, distance in points: lower (15.000 against 20.000).",)
    assert dimensions.tables[0].rows[0][5:8] == ("-5.000 [-5.000, -5.000]", "0.000", "30")
    spoken = found["Open answers"]
    assert spoken.said == (
        "one, german, win rate against two by j: higher (1.000 against 0.000).",
        "one, german, sentiment of words: higher (1.000 against 0.000).",
    )
    assert any("word for word the same: one 0 of 8; two 8 of 8." in note for note in spoken.notes)
    lessons = found["Learning from a talk"]
    assert lessons.said == (
        "t, german, gain of talks about what the exam asks: higher (0.500 against 0.000).",
    )  # fmt: skip
    assert lessons.tables[0].rows[0][7] == "8"


def test_calls_that_came_to_no_answer_are_said_in_a_line(tmp_path: Path) -> None:
    second = open_answers("They are kind.", "tie", lost=3)
    section = sections(tmp_path, open_answers("They work.", "tie"), second)["Open answers"]
    assert "Calls that came to no answer count nowhere: 0 of the first run, 3 of the second." in section.notes
    texts = sections(tmp_path / "texts", moderation(2), moderation(8))["Content moderation"]
    assert "Calls that came to no answer count nowhere: 2 of the first run, 8 of the second." in texts.notes
    assert texts.tables[0].rows[0][3:5] == ("1.000", "1.000")
    counts = next(table for table in section.tables if table.title == "Counts of words")
    assert {(row[0], row[7]) for row in counts.rows} == {("one", "8"), ("two", "5")}


def test_what_one_run_lacks_is_said_in_a_line(tmp_path: Path) -> None:
    found = sections(tmp_path, [*hofstede(3), *learning("no")], [*hofstede(3), *open_answers("They work.", "tie")])
    assert found["Hofstede's dimensions (VSM 2013)"].said == ("Nothing is told apart.",)
    assert found["Learning from a talk"].said == (f"Not compared: {tmp_path / 'b'} has no such evaluation.",)
    assert found["Open answers"].said == (f"Not compared: {tmp_path / 'a'} has no such evaluation.",)
    assert not found["Open answers"].tables
    assert len(found) == 3, "of what neither has nothing is said"


def test_what_is_not_the_same_is_not_compared(tmp_path: Path) -> None:
    others = (TRUTH[0], Truth("korean", (61.0, *[None] * 5)))
    for k, second in enumerate((hofstede(4, seed=1), hofstede(4, truth=others))):
        (said,) = sections(tmp_path / str(k), hofstede(3), second)["Hofstede's dimensions (VSM 2013)"].said
        assert "no two cultures have the same people, items and published scores" in said
    (said,) = sections(tmp_path / "players", learning("no"), learning("yes", "m"))["Learning from a talk"].said
    assert "not played by the same model" in said
    asked = open_answers("They work.", "tie", "Why so?")
    (said,) = sections(tmp_path / "asked", open_answers("They work.", "tie"), asked)["Open answers"].said
    assert "no model in common that was asked the same" in said


def test_benchmarks_of_both_areas_are_corrected_as_one_family(tmp_path: Path) -> None:
    files = [("gsm8k", "one"), ("bbh/snarks", "two")]
    (table,) = sections(tmp_path, benchmarks(False, files), benchmarks(True, files))["Benchmarks"].tables
    # Of the 64 ways to exchange six answers two are as far apart.
    assert [(row[1], row[6]) for row in table.rows] == [
        ("share of gsm8k solved", f"{2 * 2 / 64:.3f}"), ("share of bbh solved", f"{2 * 2 / 64:.3f}")
    ]  # fmt: skip


def told_of(section: Section, note: str = "") -> tuple[str, ...]:
    """Both runs' figures and the number of items, a row each, of a section that says nothing else was left out."""
    assert section.notes[1:] == ((note,) if note else ())
    (table,) = section.tables
    return tuple(f"{row[3]} {row[4]} {row[7]}" for row in table.rows)


def test_questions_of_the_survey_count_where_they_were_put_alike(tmp_path: Path) -> None:
    title = "Alignment with the survey"
    other = [
        replace(ASKED[0], question="Is it not so in 0?"), replace(ASKED[1], options=("yes", "maybe")),
        replace(ASKED[2], distribution=(0.25, 0.75)), *ASKED[3:7],
    ]  # fmt: skip
    found = sections(tmp_path / "words", survey(0.25), survey(0.125, other))[title]
    note = (
        "Left out: 4 of 8 questions to a culture, which only one run has, or whose words, options, wordings or "
        "people's answers differ."
    )
    assert told_of(found, note) == ("0.250 0.125 4",)
    (said,) = sections(tmp_path / "wordings", survey(0.25), survey(0.125, wordings=2))[title].said
    assert said.startswith("Not compared: no held-out question has the same words, options, wordings and")
    # What a recipe asks is the same as what `cp-ray evaluate` asks in one wording.
    assert told_of(sections(tmp_path / "recipe", trained(0.25), survey(0.125))[title]) == ("0.250 0.125 8",)
    (said,) = sections(tmp_path / "recipes", trained(0.25), trained(0.125, 3))[title].said
    assert said.startswith("Not compared")


def test_texts_are_compared_in_the_same_tokens_only(tmp_path: Path) -> None:
    found = sections(tmp_path / "texts", forgetting(20, ["a", "b", "c"]), forgetting(10, ["c", "a"]))["Forgetting"]
    assert told_of(found, "Left out: 1 of 3 texts, which only one run has.") == ("2.000 1.000 2",)
    same = sections(tmp_path / "same", forgetting(20, ["a"]), forgetting(10, ["a"]))["Forgetting"]
    assert told_of(same) == ("2.000 1.000 1",)
    lost = sections(tmp_path / "lost", forgetting(20, ["a"], own=math.nan), forgetting(10, ["a"], own=1))["Forgetting"]
    assert told_of(lost, "Left out: german, whose numbers are not finite.") == ("2.000 1.000 1",)
    none = sections(tmp_path / "none", forgetting(math.nan, ["a"]), forgetting(10, ["a"]))["Forgetting"]
    assert none.said == ("Not compared: the numbers of base are not finite.",)
    other = sections(tmp_path / "tokens", forgetting(20, ["a"]), forgetting(20, ["a"], tokens=5))["Forgetting"]
    assert other.said[0].startswith("Not compared: the same texts have other numbers of tokens")
    assert not other.tables


def test_benchmarks_are_compared_on_the_same_data_by_the_same_harness(tmp_path: Path) -> None:
    first = benchmarks(False, [("gsm8k", "one"), ("bbh/snarks", "two"), ("bbh/navigate", "three")])
    second = benchmarks(True, [("gsm8k", "other"), ("bbh/snarks", "two"), ("bbh/hyperbaton", "four")])
    note = "Left out: gsm8k, bbh/navigate, bbh/hyperbaton, which only one run has, or whose data differ."
    assert told_of(sections(tmp_path / "some", first, second)["Benchmarks"], note) == ("0.000 1.000 6",)
    (said,) = sections(tmp_path / "none", first, benchmarks(True, [("gsm8k", "other")]))["Benchmarks"].said
    assert said.startswith("Not compared: no benchmark has the same data")
    same = [("gsm8k", "one")]
    older = sections(tmp_path / "harness", benchmarks(False, same), benchmarks(True, same, "0.4.8"))["Benchmarks"]
    assert "lm-evaluation-harness is 0.4.9 in the first run and 0.4.8 in the second" in older.said[0]


def test_scores_whose_rows_are_gone_are_told_in_one_line(tmp_path: Path) -> None:
    roots = [run_of(tmp_path / name, hofstede(3)) for name in "ab"]
    Run(roots[0]).folder(hofstede(3)[0]).clear()
    with pytest.raises(RunFolderError, match="is gone, of which scores were made"):
        compared(*roots)
