import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES, of, parse_cultures, read_cultures, restored
from cp_ray.errors import ConfigError
from cp_ray.evals.nulls import HUMAN, NULLS
from cp_ray.serving.routing import AUTO
from cp_ray.training.config import UNIFIED

FRENCH: dict[str, Any] = {
    "id": "french", "adjective": "French", "people": "French people", "language": "French", "locales": ["fr", "fr-FR"],
    "countries": ["FRA"], "female": "Manon", "male": "Hugo",
}  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    file = folder / "cultures.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_all_ten_are_there() -> None:
    assert parse_cultures("all") == tuple(CULTURES.values())
    assert len(CULTURES) == 10
    names = [p.name for c in CULTURES.values() for p in (c.female, c.male)]
    assert len(set(names)) == 20
    assert all(c.female.gender == "woman" and c.male.gender == "man" for c in CULTURES.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("germn", "did you mean 'german'"),
        ("arabic,klingon", "no culture is called 'klingon'"),
        ("", "at least one name"),
        (" , ", "at least one name"),
        ("greek,greek", "stands twice"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse_cultures(text)
    assert "\n" not in str(raised.value)


def test_order_and_blanks() -> None:
    assert [c.id for c in parse_cultures(" turkish, arabic ")] == ["turkish", "arabic"]
    assert of(CULTURES.values(), "spanish").countries == ("ARG", "MEX")
    with pytest.raises(ConfigError, match="speak of 'greek', the step was given german"):
        of([CULTURES["german"]], "greek")


def test_a_file_adds_cultures_and_replaces_those_of_the_same_id(tmp_path: Path) -> None:
    other = FRENCH | {"id": "german", "adjective": "Bavarian", "hofstede": "Germany"}
    known = CULTURES | read_cultures(written(tmp_path, [FRENCH, other]))
    french, german = parse_cultures("french,german", known)
    assert (french.locales, french.female.name, french.male.gender, french.hofstede) == (
        ("fr", "fr-FR"), "Manon", "man", "",
    )  # fmt: skip
    assert german.adjective == "Bavarian"
    assert len(parse_cultures("all", known)) == 11


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ({}, r"must hold a list of at least one culture, got \{\}"),
        ([], "must hold a list of at least one culture"),
        (["french"], "culture 1: must be an object"),
        ([FRENCH, FRENCH], "culture 2: 'french' stands twice"),
        ([FRENCH | {"colour": "blue"}], "unknown key 'colour'; known: id"),
        ([{k: v for k, v in FRENCH.items() if k != "people"}], "lacks the key 'people'"),
        ([FRENCH | {"people": 3}], "people must be a line of text .* got 3"),
        ([FRENCH | {"people": " "}], "people must be a line of text"),
        ([FRENCH | {"adjective": "French\nIgnore"}], "adjective must be a line of text"),
        ([FRENCH | {"countries": "FRA"}], "countries must be a list of at least one text, got 'FRA'"),
        ([FRENCH | {"countries": []}], "countries must be a list of at least one text"),
        ([FRENCH | {"countries": ["FRA", 7]}], "countries: each must be a line of text"),
        ([FRENCH | {"countries": ["FRA", "FRA"]}], "countries must not name anything twice"),
        ([FRENCH | {"hofstede": None}], "hofstede must be a line of text"),
        ([FRENCH | {"id": "French"}], "id must be of a-z, 0-9 and _, .* got 'French'"),
        ([FRENCH | {"id": "../x"}], "id must be of a-z"),
        *(([FRENCH | {"id": id}], f"got '{id}'") for id in (*NULLS, HUMAN, UNIFIED, AUTO)),
        ([FRENCH | {"id": "base"}], "not be all, auto, base, .*, unified, got 'base'"),
        ([FRENCH | {"male": "Manon"}], "female and male must be different names"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        read_cultures(written(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.json cannot be read"):
        read_cultures(tmp_path / "nowhere.json")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(sorted(FRENCH)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(FRENCH)), inner, max_size=8),
)


@given(ANYTHING | st.lists(st.builds(lambda change: FRENCH | change, st.dictionaries(st.sampled_from(sorted(FRENCH)),
       ANYTHING, max_size=2)), max_size=2))  # fmt: skip
def test_any_file_gives_cultures_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    try:
        found = read_cultures(written(tmp_path_factory.getbasetemp(), content))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(id == c.id and c.countries for id, c in found.items())


def test_a_culture_comes_back_from_a_manifest() -> None:
    for one in CULTURES.values():
        assert restored(json.loads(json.dumps(dataclasses.asdict(one)))) == one
    for damaged in ("german", None, {}, {"id": "german"}):
        with pytest.raises(ConfigError, match="not a culture's fields"):
            restored(damaged)
