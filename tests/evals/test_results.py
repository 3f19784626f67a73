"""The evaluation page's tables with planted figures."""

import re
from dataclasses import replace
from pathlib import Path

from cp_ray.evals.charts import matrix_chart
from cp_ray.evals.results.page import html_page, markdown
from cp_ray.evals.results.questions import question_tables
from cp_ray.evals.results.sections import Section, Table, Way, ways_notes
from cp_ray.evals.results.survey import survey_section
from cp_ray.folder import open_folder
from cp_ray.records import Prediction, QuestionScore, Score, Seed, Split
from cp_ray.steps.evaluation import write_ways


def scored(model: str, culture: str, *distances: float, split: Split = "heldout") -> list[QuestionScore]:
    return [QuestionScore(model, culture, f"Q{k}", f"topic {k}", split, d, 0.0) for k, d in enumerate(distances)]


def asked(culture: str, k: int, split: Split = "heldout") -> Seed:
    return Seed(f"{culture}/Q{k}", culture, "s", f"Q{k}", f"topic {k}", f"Is it so in {k}?", ("a", "b"), (1.0, 0.0), 9,
                "a", split)  # fmt: skip


SEEDS = [asked("german", 1), asked("german", 0), asked("german", 5, "train"), asked("greek", 1), asked("greek", 0)]


def test_each_held_out_question_stands_beside_one_answerer_that_knows_nothing() -> None:
    told = [
        *scored("german", "german", 0.1, 0.3), *scored("german", "german", 0.9, split="train"),
        *scored("greek", "german", 0.7, 0.7), *scored("base", "german", 0.2, 0.6),
        *scored("human", "german", 0.01, 0.03),
        # `first` is the nearest on Q0, `uniform` by its mean; `modal` has seen the answers.
        *scored("uniform", "german", 0.3, 0.3), *scored("first", "german", 0.0, 0.8),
        *scored("modal", "german", 0.0, 0.1),
        *scored("base", "greek", 0.5), *scored("last", "greek", 0.4, 0.2),
    ]  # fmt: skip
    german, greek = question_tables(told, SEEDS)
    assert german.title == "german: distance on each held-out question"
    assert german.heads[2:] == ("own adapter", "base", "uniform", "human")
    assert german.rows == (
        ("Is it so in 1?", "topic 1", "0.300", "0.600", "0.300", "0.030"),
        ("Is it so in 0?", "topic 0", "0.100", "0.200", "0.300", "0.010"),
        ("mean", "", "0.200", "0.400", "0.300", "0.020"),
    )
    assert greek.rows == (
        ("Is it so in 1?", "topic 1", "–", "–", "0.200", "–"),
        ("Is it so in 0?", "topic 0", "–", "0.500", "0.400", "–"),
        ("mean", "", "–", "0.500", "0.300", "–"),
    )


def test_a_model_that_has_answered_none_of_the_same_questions_is_held_against_nobody() -> None:
    own, uniform = scored("german", "german", 0.1, 0.3), scored("uniform", "german", 0.3, 0.3, 0.4)
    elsewhere = scored("m", "german", 0.0, 0.0, 0.2)[2:]
    score = Score("german", "german", "survey_heldout", "emd", 0.2, 0.1, 0.3, 2)
    (said,) = survey_section([score], [*own, *uniform, *elsewhere], SEEDS).said
    assert "uniform (by" in said
    assert "m (by" not in said.replace("uniform (by", "")


def test_the_matrix_is_shaded_by_the_models_it_shows() -> None:
    """An answerer that is far off, and the people, leave the models all the shades there are."""
    told = {("base", "german"): 0.2, ("german", "german"): 0.1, ("first", "german"): 0.9, ("human", "german"): 0.0}
    scores = [Score(m, c, "survey_heldout", "emd", v, v, v, 10) for (m, c), v in told.items()]
    chart = matrix_chart(scores, ["base", "german"], ["german"], "t")
    assert re.findall(r"rgba\(var\(--near\), ([\d.]+)\)", chart) == ["0.00", "0.55"]


def test_a_matrix_of_ten_cultures_has_room_for_its_intervals() -> None:
    names = [f"culture {k}" for k in range(10)]
    scores = [Score(m, c, "survey_heldout", "emd", 0.2, 0.1, 0.3, 10) for m in names for c in names]
    assert 'viewBox="0 0 890 ' in matrix_chart(scores, names, names, "t"), "ten cells of 78 beside the names"
    assert 'viewBox="0 0 480 ' in matrix_chart(scores, names, names[:4], "t")
    section = survey_section(scores, [], [])
    assert '<figure class="wide"><figcaption>Which model' in html_page("P", [section], {})
    assert section.figures[0].wide
    assert not any(figure.wide for figure in section.figures[1:])


def test_adapters_stand_in_the_order_of_their_cultures_and_endpoints_below() -> None:
    scores = [
        Score(model, culture, "survey_heldout", "emd", 0.1, 0.1, 0.1, 10)
        for culture in ("korean", "arabic")
        for model in ("arabic", "base", "gpt", "human", "korean", "uniform")
    ]
    table = survey_section(scores, [], []).tables[0]
    assert table.heads == ("model", "korean", "arabic")
    assert [row[0] for row in table.rows] == ["uniform", "base", "korean", "arabic", "gpt", "human"]


def test_tables_that_are_opened_one_by_one() -> None:
    table = Table("x < y", ("question", "own"), (("A|B", "0.1"),))
    section = Section("S", (), (Table("seen", ("a",), (("1",),)),), folded=(table, table))
    page, text = html_page("P", [section], {}), markdown("P", [section])
    assert page.count("<details><summary>x &lt; y</summary>") == 2
    assert page.count("<caption>") == 1, "a summary is a title"
    assert re.search(r"<details><summary>x &lt; y</summary>\n\n\| question \| own \|\n\| --- \| --- \|\n"
                     r"\| A\\\|B \| 0.1 \|\n\n</details>", text)  # fmt: skip


def test_items_to_which_no_answer_came_are_told(tmp_path: Path) -> None:
    said = Prediction("1", "m", "german", "t", "1", "", way="drawn", reject="no answer: content_filter")
    lost = replace(said, reject="no answer: gave up: time-out")
    write_ways(open_folder(str(tmp_path)), [said, lost, said, lost, replace(said, model="n")])
    assert open_folder(str(tmp_path / "ways")).read(Way) == [Way("m", "drawn", 4, 2), Way("n", "drawn", 1)]
    assert ways_notes([Way("base", "whole", 20), Way("m", "drawn", 20, 8), Way("n", "drawn", 9, 9)]) == (
        "How each model's answers were found: base: whole; m, n: drawn.",
        "Items to which no answer came, and which count in none of the model's figures: m 8 of 20, n 9 of 9.",
    )
    assert ways_notes([Way("base", "whole", 20)]) == ("How each model's answers were found: base: whole.",)
    assert ways_notes([]) == ()
