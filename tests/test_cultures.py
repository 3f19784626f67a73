import pytest

from cp_ray.cultures import CULTURES, culture, parse_cultures
from cp_ray.errors import ConfigError


def test_all_ten_are_there() -> None:
    assert parse_cultures("all") == tuple(CULTURES)
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
    assert parse_cultures(" turkish, arabic ") == ("turkish", "arabic")
    assert culture("spanish").countries == ("ARG", "MEX")
