from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import SurveyError
from cp_ray.survey.counts import SHIPPED, items, read_counts
from cp_ray.survey.items import Item, pooled
from cp_ray.survey.questions import QUESTIONS
from cp_ray.survey.read import WVS7, read_survey

HEADER = "country,question,code,respondents\n"


def q27(counts: dict[str, dict[int, int]]) -> Item:
    """The first question, answered so."""
    return items({(country, "Q27"): cell for country, cell in counts.items()})[0]


def test_every_valid_code_of_the_shipped_counts_is_on_its_scale() -> None:
    counts = read_counts()
    found = {(q, code) for (_, q), cell in counts.items() for code in cell if code >= 0}
    scales = {(q.id, code) for q in QUESTIONS.values() for code in q.scale.codes}
    assert found == scales
    assert {country for c in CULTURES.values() for country in c.countries} <= {country for country, _ in counts}


def test_a_missing_answer_is_no_answer() -> None:
    item = q27({"JOR": {-1: 900, -2: 50, 1: 30, 2: 10}, "CHN": {-4: 3000}})
    answers = pooled(item, ["JOR"])
    assert answers is not None
    assert answers.shares == (0.75, 0.25, 0.0, 0.0)
    assert answers.respondents == 40
    assert pooled(item, ["CHN"]) is None
    assert pooled(item, ["FRA"]) is None


def test_countries_weigh_the_same_however_many_were_asked() -> None:
    answers = pooled(q27({"A": {1: 1000, 2: 0}, "B": {1: 1, 2: 3}, "C": {-4: 9}}), ["A", "B", "C"])
    assert answers is not None
    assert answers.shares[:2] == (0.625, 0.375)
    assert answers.respondents == 1004


def test_shares_sum_to_one() -> None:
    shipped = read_survey()
    assert shipped.source == WVS7
    assert [item.id for item in shipped.items] == list(QUESTIONS)
    for item in shipped.items:
        for culture in CULTURES.values():
            answers = pooled(item, culture.countries)
            if answers is not None:
                assert sum(answers.shares) == pytest.approx(1)
                assert min(answers.shares) >= 0


def test_a_country_goes_by_its_code_or_its_name(tmp_path: Path) -> None:
    file = tmp_path / "east.csv"
    file.write_text("country;question;code;respondents\nS. Korea;Q27;1;30\nNepal;Q27;1;5\n")
    survey = read_survey(file)
    assert (survey.source.id, survey.source.name) == ("east", "the survey 'east'")
    item = survey.items[0]
    assert all(pooled(item, [name]) for name in ("KOR", "South Korea", "south  korea", "Nepal"))
    assert pooled(item, ["NPL"]) is None
    both = pooled(item, ["KOR", "South Korea", "Nepal"])
    assert both is not None
    assert both.respondents == 35, "a country that is named twice counts once"
    assert len(survey.items) == 50, "which questions are held out does not hang on the file"


def test_what_a_survey_holds_has_a_hash(tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.csv", tmp_path / "other.csv"
    text = SHIPPED.read_text()
    copy.write_text(text)
    other.write_text(text.replace("ARG,Q27,1,", "ARG,Q27,1,1", 1))
    assert read_survey(copy).content == read_survey().content != read_survey(other).content


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "DEU,,1,5\n", "line 2: question must not be empty"),
        (HEADER + "DEU,Q27,1,10000000000\n", "respondents must not be negative, nor above"),
        (HEADER + "DEU,Q27,1,5\nGermany,Q27,1,6\n", "line 3 counts DEU Q27 code 1 a second time"),
        (HEADER + "DEU,Q27,one,5\n", "line 2: code must be a whole number, got 'one'"),
        (HEADER + "DEU,Q27,1,5\nDEU,Q27,2,\n", "line 3: respondents must be a whole number"),
        (HEADER + "DEU,Q27,9,5\n", "line 2: code must be one of 1, 2, 3, 4, or below 1 for no answer, got 9"),
        (HEADER + "DEU,Q999,1,5\n", "line 2: question 'Q999' is none of the 50; "),
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
