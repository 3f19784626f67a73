"""Each form of a survey file, in small: our own wording, invented numbers."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import SurveyError
from cp_ray.survey import wvs7
from cp_ray.survey.items import Item, Survey, pooled
from cp_ray.survey.questions import QUESTIONS
from cp_ray.survey.read import GOQA, WVS7, read_survey

PEOPLE = "version,B_COUNTRY_ALPHA,W_WEIGHT,Q1,Q27,Q122\n"
OWN = "question,options,country,answers\n"
TEA = "Is tea better than coffee?"
COUNTRIES = "{'Germany': [0.2, 0.6, 0.2], 'S. Korea': [0.5, 0.5, 0.0], 'Belgium': [0.0, 0.0, 1.0]}"
SELECTIONS = f"defaultdict(<class 'list'>, {COUNTRIES})"
OPTIONS = "['Very good', 'Bad', 'DK/Refused']"
LINE = {"question": "How is tea?", "selections": SELECTIONS, "options": OPTIONS, "source": "GAS"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        file = tmp_path / "mine.csv"
        file.write_text(text, encoding="utf-8")
        return file

    return written


def of(survey: Survey, id: str) -> Item:
    return next(item for item in survey.items if item.id == id)


def shares(item: Item, *countries: str) -> tuple[float, ...]:
    answers = pooled(item, countries)
    assert answers is not None
    return tuple(round(share, 6) for share in answers.shares)


@pytest.mark.parametrize("between", [",", ";"])
def test_wvs7_people_count_by_their_weights(write: Write, between: str) -> None:
    lines = ["6,DEU,0.5,1,1,0", "6,DEU,1.5,2,2,-4", '6,"DEU",1,9,-1,-4', "6,DEU,,,,".replace(",,,", ",2,,"),
             "6,KOR,1,1,4,2", "6,KOR,1,1,-2,"]  # fmt: skip
    survey = read_survey(write((PEOPLE + "\n".join(lines) + "\n").replace(",", between)))
    assert survey.source == WVS7
    assert [item.id for item in survey.items] == list(QUESTIONS), "so that the same questions are held out"
    assert shares(of(survey, "Q27"), "DEU") == (0.25, 0.75, 0.0, 0.0)
    assert of(survey, "Q27").answers["DEU"].respondents == 2, "people, not weights; no answer is none"
    assert shares(of(survey, "Q27"), "KOR") == (0.0, 0.0, 0.0, 1.0)
    assert shares(of(survey, "Q122"), "Germany") == (1.0, 0.0, 0.0)
    assert of(survey, "Q122").answers.keys() == {"DEU", "KOR"}
    assert not of(survey, "Q28").answers, "a question without a column"


@pytest.fixture
def threads() -> Iterator[None]:
    """Four of Arrow's, wherever this runs."""
    before = pa.cpu_count()
    pa.set_cpu_count(4)
    yield
    pa.set_cpu_count(before)


def test_wvs7_weights_are_added_up_to_the_same_last_bit_each_time(threads: None) -> None:
    draw = random.Random(0)
    pieces = [
        pa.table({
            "B_COUNTRY_ALPHA": draw.choices(["DEU", "KOR"], k=5_000),
            "W_WEIGHT": [draw.random() for _ in range(5_000)],
            "Q27": draw.choices([1.0, 2.0, 3.0, 4.0], k=5_000),
        })
        for _ in range(24)
    ]  # fmt: skip
    table = pa.concat_tables(pieces)
    assert len({repr(list(wvs7._answers(Path("w.csv"), table, QUESTIONS["Q27"]))) for _ in range(20)}) == 1


def test_wvs7_weights_may_have_a_decimal_comma(write: Write) -> None:
    survey = read_survey(write(PEOPLE.replace(",", ";") + "6;DEU;0,5;1;1;0\n6;DEU;1,5;1;2;0\n"))
    assert shares(of(survey, "Q27"), "DEU") == (0.25, 0.75, 0.0, 0.0)


def test_wvs7_people_without_weight_give_nothing(write: Write) -> None:
    survey = read_survey(write(PEOPLE + "6,DEU,0,1,1,0\n6,KOR,1,1,1,0\n"))
    assert of(survey, "Q27").answers.keys() == {"KOR"}


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ("6,DEU,1,1,1,0\n6,DEU,1,1,7,0\n", "line 3: Q27 must be negative or one of 1, 2, 3, 4, got 7.0"),
        ("6,DEU,1,1,1.5,0\n", "line 2: Q27 must be negative or one of 1, 2, 3, 4, got 1.5"),
        ("6,DEU,1,1,nan,0\n", "line 2: Q27 must be negative or one of"),
        ("6,DEU,1,1,yes,0\n", "cannot be read as WVS-7's respondents"),
        ("6,DEU,-1,1,1,0\n", "line 2: W_WEIGHT must be a number that is not negative, got -1.0"),
        ("6,DEU,,1,1,0\n", "line 2: W_WEIGHT must be a number that is not negative, got None"),
        ("6,DEU,inf,1,1,0\n", "line 2: W_WEIGHT must be a number"),
        ("6,DEU,heavy,1,1,0\n", "cannot be read as WVS-7's respondents"),
        ("6,,1,1,1,0\n", "line 2: B_COUNTRY_ALPHA must not be empty"),
        ("6,DEU,1\n", "cannot be read as WVS-7's respondents"),
        ("6,DEU,1,1,-1,-2\n", "holds no answers"),
        ("", "holds no answers"),
    ],
)
def test_a_wrong_wvs7_file_is_told_in_one_line(write: Write, people: str, said: str) -> None:
    with pytest.raises(SurveyError, match=said) as raised:
        read_survey(write(PEOPLE + people))
    assert "\n" not in str(raised.value)


def csv_of(*lines: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    return "\n".join([",".join(LINE), *(",".join(cell(line[c]) for c in LINE) for line in lines)]) + "\n"


def test_goqa_as_csv_json_lines_or_parquet(tmp_path: Path) -> None:
    plain = {**LINE, "selections": {"Germany": [0.2, 0.6, 0.2], "S. Korea": [0.5, 0.5, 0.0], "Belgium": [0, 0, 1.0]},
             "options": ["Very good", "Bad", "DK/Refused"]}  # fmt: skip
    files = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.jsonl", "d.parquet", "e.parquet")]
    files[0].write_text(csv_of(LINE))
    files[1].write_text(json.dumps(LINE) + "\n\n")
    files[2].write_text(json.dumps(plain) + "\n")
    pq.write_table(pa.Table.from_pylist([LINE]), files[3])
    pq.write_table(pa.Table.from_pylist([plain]), files[4])
    surveys = [read_survey(file) for file in files]
    assert all(survey == surveys[0] for survey in surveys)
    assert surveys[0].source == GOQA
    (item,) = surveys[0].items
    assert item.options == ("Very good", "Bad")
    assert (item.topic, item.question) == ("GAS", "How is tea?")
    assert item.id.startswith("GAS-")
    assert shares(item, "DEU") == (0.25, 0.75)
    assert shares(item, "Germany", "South Korea") == (0.375, 0.625)
    assert pooled(item, ["Belgium"]) is None, "nobody there gave one of the answers"
    assert item.answers["KOR"].respondents == 0, "the file does not tell"


@pytest.mark.parametrize(
    "option",
    ["DK/Refused", "dk/refused", "Don't know", "Don’t know", "No answer", "No answer/refused", "Missing; Unknown",
     "Missing; Not available", "Other missing; Multiple answers Mail (EVS)", "Refused", "Don't know (DO NOT READ)",
     "Missing; Not asked in survey"],
)  # fmt: skip
def test_goqa_what_is_no_answer_is_dropped(write: Write, option: str) -> None:
    line = {
        **LINE,
        "options": repr(["1", "Not good", "None of them", option]),
        "selections": "{'Chile': [.2, .1, .1, .6]}",
    }
    (item,) = read_survey(write(csv_of(line))).items
    assert item.options == ("1", "Not good", "None of them")
    assert shares(item, "Chile") == (0.5, 0.25, 0.25)


def test_goqa_lines_that_say_nothing(write: Write) -> None:
    lines = [
        {**LINE, "question": ""},
        {**LINE, "question": "One option?", "options": "['Yes', 'No answer']", "selections": "{'Chile': [1, 0]}"},
        {**LINE, "question": "Nobody?", "selections": "{}"},
        {**LINE, "question": "Scale?", "options": "[1.0, 2.0]", "selections": "{'Chile': [1, 0]}", "source": "WVS"},
        LINE,
        {**LINE, "selections": "{'Chile': [0.3, 0.7, 0]}"},
    ]
    found = read_survey(write(csv_of(*lines))).items
    assert [(item.question, item.options) for item in found] == [
        ("Scale?", ("1", "2")),
        ("How is tea?", ("Very good", "Bad")),
    ]
    assert "Chile" not in found[1].answers, "of a question that stands there twice, the first counts"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"selections": "__import__('os').getcwd()"}, "selections must map countries to shares"),
        ({"selections": "defaultdict(<class 'list'>, print(1))"}, "selections must map countries to shares"),
        ({"selections": "[1]"}, "selections must map countries to shares"),
        ({"selections": ""}, "selections must map countries to shares"),
        ({"selections": "{'Chile': [0.5, 0.5]}"}, "'Chile' must be one for each of 3 options, got 2"),
        ({"selections": "{'Chile': [0.5, -0.5, 1]}"}, "'Chile' must be shares from 0 to 1"),
        ({"selections": "{'Chile': [50, 40, 10]}"}, "'Chile' must be shares from 0 to 1"),
        ({"selections": "{'Chile': ['a', 'b', 'c']}"}, "'Chile' must be shares from 0 to 1"),
        ({"selections": "{7: [1, 0, 0]}"}, "must name countries, got 7"),
        ({"options": "Very good, Bad"}, "options must be a list of texts, got 'Very good, Bad'"),
        ({"options": "['a', 'a', 'b']"}, "options must differ"),
        ({"options": "['a', ' ', 'b']"}, "options must not be empty"),
        ({"source": ""}, "source must not be empty"),
    ],
)
def test_a_wrong_goqa_line_is_told_in_one_line(write: Write, change: dict[str, str], said: str) -> None:
    for text in (csv_of(LINE, {**LINE, **change, "question": "Another?"}), json.dumps({**LINE, **change}) + "\n"):
        with pytest.raises(SurveyError, match=said) as raised:
            read_survey(write(text))
        assert "\n" not in str(raised.value)
        assert " line " in str(raised.value)


def test_a_damaged_goqa_file_is_told_in_one_line(tmp_path: Path, write: Write) -> None:
    for text, said in (("{", "line 1: must be a JSON object"), ('{"question": "a"}', "must be a JSON object with")):
        with pytest.raises(SurveyError, match=said):
            read_survey(write(text))
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 nothing else")
    with pytest.raises(SurveyError, match="cannot be read"):
        read_survey(file)
    pq.write_table(pa.table({"question": ["a"]}), file)
    with pytest.raises(SurveyError, match=r"selections|lacks the column"):
        read_survey(file)


def test_an_own_survey(write: Write) -> None:
    survey = read_survey(write(
        "id,topic,question,options,country,answers\n"
        f"tea,drinks,{TEA},Yes|Hard to say|No,DEU,120|30|150\n"
        f"tea,drinks,{TEA},Yes | Hard to say | No,Narnia,0.5|0.25|0.25\n"
        ",,Is it late?,No|Yes,Greece,45.5|54.5\n"
    ))  # fmt: skip
    tea, late = survey.items
    assert (survey.source.id, tea.id, tea.topic, tea.question) == ("mine", "tea", "drinks", TEA)
    assert tea.options == ("Yes", "Hard to say", "No")
    assert shares(tea, "DEU") == (0.4, 0.1, 0.5)
    assert {country: a.respondents for country, a in tea.answers.items()} == {"DEU": 300, "Narnia": 0}
    assert shares(tea, "DEU", "Narnia") == (0.45, 0.175, 0.375)
    assert (late.topic, late.id[:4], shares(late, "GRC")) == ("own questions", "own-", (0.455, 0.545))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            f"{TEA},Yes|No,DEU,1|2\n{TEA},Yes|No,Germany,1|2\n",
            "line 3: the answers of DEU to 'own-.*' stand there a second",
        ),
        (f"{TEA},Yes|No,DEU,1|2\n{TEA},No|Yes,KOR,1|2\n", "line 3: 'own-.*' has another question, topic or options"),
        (f"{TEA},Yes|No,DEU,1|2|3\n", "line 2: answers must be one for each of 2 options, got 3"),
        (f"{TEA},Yes|No,DEU,many|few\n", "answers must be numbers with | between, got 'many|few'"),
        (f"{TEA},Yes|No,DEU,-1|2\n", "answers must not be negative, nor all 0"),
        (f"{TEA},Yes|No,DEU,0|0\n", "answers must not be negative, nor all 0"),
        (f"{TEA},Yes|No,DEU,nan|1\n", "answers must not be negative"),
        (f"{TEA},Yes|No,DEU,1e300|1\n", "answers must not be negative"),
        (f"{TEA},Yes,DEU,1\n", "options must be at least two different ones"),
        (f"{TEA},Yes|Yes,DEU,1|2\n", "options must be at least two different ones"),
        (f"{TEA},Yes|No,,1|2\n", "line 2: country must not be empty"),
        (",Yes|No,DEU,1|2\n", "line 2: question must not be empty"),
        (f"{TEA}\n", "must not be empty"),
        ("", "holds no answers"),
        (f'{TEA},Yes|No,DEU,"1|2\nIs it late?,Yes|No,DEU,1|2\n', "cannot be read .unexpected end of data."),
    ],
)
def test_a_wrong_own_survey_is_told_in_one_line(write: Write, lines: str, said: str) -> None:
    with pytest.raises(SurveyError, match=said.replace("|", r"\|")) as raised:
        read_survey(write(OWN + lines))
    assert "\n" not in str(raised.value)


def test_one_question_has_one_id(write: Write) -> None:
    text = f"id,{OWN}a,{TEA},Yes|No,DEU,1|2\nb,{TEA},Yes|No,DEU,1|2\n"
    with pytest.raises(SurveyError, match="line 3: the question of 'b' is that of 'a'"):
        read_survey(write(text))


@pytest.mark.parametrize(
    "text", ["", "\n", "a,b\n1,2\n", "country,question,code\n", "B_COUNTRY_ALPHA,W_WEIGHT\nDEU,1\n"]
)
def test_an_unknown_form_is_told_with_the_known_ones(write: Write, text: str) -> None:
    with pytest.raises(SurveyError, match="has none of the known forms") as raised:
        read_survey(write(text))
    for known in ("answer counts (country,", "W_WEIGHT", "GlobalOpinionQA", "answers)"):
        assert known in str(raised.value)
    assert "\n" not in str(raised.value)


HEADERS = ["country,question,code,respondents\n", PEOPLE, ",".join(LINE) + "\n", OWN, f"id,topic,{OWN}"]
PIECES = st.sampled_from(
    [",", ";", "|", "\n", '"', "'", "{", "}", "[", "]", "1", "0.5", "-1", "nan", "1e999", "DEU", "Q27", "Yes|No", "1|2",
     SELECTIONS, OPTIONS, f'"{SELECTIONS}"', f'"{OPTIONS}"', "WVS", TEA, "\0", "ä", "\ufeff", "\u2028", "9" * 5000]
)  # fmt: skip


def items_or_one_line(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(data)
        file.flush()
        try:
            survey = read_survey(Path(file.name))
        except SurveyError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert len(survey.content) == 16
            for item in survey.items:
                assert len(item.options) == len(set(item.options)) >= 2
                for answers in item.answers.values():
                    assert sum(answers.shares) == pytest.approx(1)
                    assert len(answers.shares) == len(item.options)
                    assert min(answers.shares) >= 0
                    assert 0 <= answers.respondents < 2**63


@given(st.sampled_from(["", "{", "PAR1", *HEADERS]), st.binary(max_size=80))
def test_any_bytes_give_items_or_one_line(header: str, data: bytes) -> None:
    items_or_one_line(header.encode() + data)


@given(st.sampled_from(HEADERS), st.lists(PIECES, max_size=12))
def test_any_lines_give_items_or_one_line(header: str, pieces: list[str]) -> None:
    items_or_one_line((header + "".join(pieces)).encode())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(list(LINE.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(st.lists(st.dictionaries(st.sampled_from(list(LINE)), VALUES, max_size=2), max_size=3))
def test_any_json_lines_give_items_or_one_line(changes: list[dict[str, Any]]) -> None:
    items_or_one_line("\n".join(json.dumps({**LINE, **change}) for change in changes).encode())
