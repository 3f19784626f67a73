from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import SurveyError
from cp_ray.survey.counts import answer_shares, read_counts
from cp_ray.survey.questions import QUESTIONS, Scale

AGREE = Scale(("Agree", "Disagree"), (1, 2))
HEADER = "country,question,code,respondents\n"


def test_every_valid_code_of_the_shipped_counts_is_on_its_scale() -> None:
    counts = read_counts()
    found = {(q, code) for (_, q), cell in counts.items() for code in cell if code >= 0}
    scales = {(q.id, code) for q in QUESTIONS.values() for code in q.scale.codes}
    assert found == scales
    assert {country for c in CULTURES.values() for country in c.countries} <= {country for country, _ in counts}


def test_a_missing_answer_is_no_answer() -> None:
    counts = {("JOR", "Q1"): {-1: 900, -2: 50, 1: 30, 2: 10}, ("CHN", "Q1"): {-4: 3000}}
    answers = answer_shares(counts, ["JOR"], "Q1", AGREE)
    assert answers is not None
    assert answers.shares == (0.75, 0.25)
    assert answers.respondents == 40
    assert answer_shares(counts, ["CHN"], "Q1", AGREE) is None
    assert answer_shares(counts, ["FRA"], "Q1", AGREE) is None


def test_countries_weigh_the_same_however_many_were_asked() -> None:
    counts = {("A", "Q1"): {1: 1000, 2: 0}, ("B", "Q1"): {1: 1, 2: 3}, ("C", "Q1"): {-4: 9}}
    answers = answer_shares(counts, ["A", "B", "C"], "Q1", AGREE)
    assert answers is not None
    assert answers.shares == (0.625, 0.375)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda q: q.id)
def test_shares_sum_to_one(question: object) -> None:
    from cp_ray.survey.questions import Question

    assert isinstance(question, Question)
    counts = read_counts()
    for culture in CULTURES.values():
        answers = answer_shares(counts, culture.countries, question.id, question.scale)
        if answers is not None:
            assert sum(answers.shares) == pytest.approx(1)
            assert min(answers.shares) >= 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column 'country'"),
        ("country,question,respondents\nDEU,Q27,5\n", "lacks the column 'code'"),
        (HEADER + "DEU,Q27,one,5\n", "line 2: code must be a whole number, got 'one'"),
        (HEADER + "DEU,Q27,1,5\nDEU,Q27,2,\n", "line 3: respondents must be a whole number"),
        (HEADER + "DEU,Q27,1,-5\n", "respondents must not be negative"),
        (HEADER + "DEU,Q27,1,5\nDEU,Q27,1,6\n", "line 3 counts DEU Q27 code 1 a second time"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "survey.csv"
    file.write_text(text)
    with pytest.raises(SurveyError, match=said) as raised:
        read_counts(file)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=60))
def test_any_bytes_give_counts_or_one_line(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(HEADER.encode() + data)
        file.flush()
        try:
            counts = read_counts(Path(file.name))
        except SurveyError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert all(n >= 0 for cell in counts.values() for n in cell.values())
