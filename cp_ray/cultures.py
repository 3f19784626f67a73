"""The cultures, in one table.

A culture is a research unit, not a people: here it is the respondents of some countries of a survey. Where
it has several countries, each counts the same, however many people were asked there.
"""

import difflib
from dataclasses import dataclass

from cp_ray.errors import ConfigError

__all__ = ["CULTURES", "Culture", "Persona", "culture", "parse_cultures"]


@dataclass(frozen=True, slots=True)
class Persona:
    """Somebody of a culture who takes part in a dialogue."""

    name: str
    gender: str


@dataclass(frozen=True, slots=True)
class Culture:
    """A culture: how to name it, whom it was asked of, who speaks for it."""

    id: str
    adjective: str
    """Before a noun: "a German woman"."""
    people: str
    """As the subject of a sentence: "Germans"."""
    language: str
    locales: tuple[str, ...]
    """BCP 47 tags, the commonest first."""
    countries: tuple[str, ...]
    """ISO 3166 alpha-3 codes of the survey's countries."""
    female: Persona
    male: Persona
    hofstede: str
    """Its row in Hofstede's table of countries."""


def _culture(
    id: str,
    adjective: str,
    people: str,
    language: str,
    *,
    locales: str,
    countries: str,
    names: tuple[str, str],
    hofstede: str,
) -> Culture:
    female, male = (Persona(name, gender) for name, gender in zip(names, ("woman", "man"), strict=True))
    return Culture(
        id, adjective, people, language, tuple(locales.split()), tuple(countries.split()), female, male, hofstede
    )


CULTURES: dict[str, Culture] = {
    c.id: c
    for c in (
        _culture("arabic", "Arab", "Arabs", "Arabic", locales="ar ar-EG ar-IQ ar-JO ar-LB ar-LY ar-MA ar-TN",
                 countries="EGY IRQ JOR LBN LBY MAR TUN", names=("Layla", "Omar"), hofstede="Arab countries"),
        _culture("bengali", "Bengali", "Bengalis", "Bengali", locales="bn bn-BD",
                 countries="BGD", names=("Nusrat", "Rafiq"), hofstede="Bangladesh"),
        _culture("chinese", "Chinese", "Chinese people", "Chinese", locales="zh zh-CN",
                 countries="CHN", names=("Meiling", "Jun"), hofstede="China"),
        _culture("english", "American", "Americans", "English", locales="en en-US",
                 countries="USA", names=("Emily", "Jack"), hofstede="U.S.A."),
        _culture("german", "German", "Germans", "German", locales="de de-DE",
                 countries="DEU", names=("Hanna", "Lukas"), hofstede="Germany"),
        _culture("greek", "Greek", "Greeks", "Greek", locales="el el-GR",
                 countries="GRC", names=("Eleni", "Nikos"), hofstede="Greece"),
        _culture("korean", "Korean", "Koreans", "Korean", locales="ko ko-KR",
                 countries="KOR", names=("Jiwoo", "Minjun"), hofstede="Korea South"),
        _culture("portuguese", "Brazilian", "Brazilians", "Portuguese", locales="pt pt-BR",
                 countries="BRA", names=("Beatriz", "Thiago"), hofstede="Brazil"),
        _culture("spanish", "Latin American", "Latin Americans", "Spanish", locales="es es-AR es-MX",
                 countries="ARG MEX", names=("Valentina", "Mateo"), hofstede="Argentina"),
        _culture("turkish", "Turkish", "Turks", "Turkish", locales="tr tr-TR",
                 countries="TUR", names=("Elif", "Emre"), hofstede="Turkey"),
    )
}  # fmt: skip
"""Every culture by its id."""


def culture(id: str) -> Culture:
    """The culture with this id.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if id in CULTURES:
        return CULTURES[id]
    near = difflib.get_close_matches(id.lower(), CULTURES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"cultures: no culture is called {id!r}; {hint}known: {', '.join(CULTURES)}")


def parse_cultures(text: str) -> tuple[str, ...]:
    """Culture ids from `arabic,german`; `all` means every one.

    Raises:
        ConfigError: a name is unknown or stands twice, or there is none.
    """
    if text.strip() == "all":
        return tuple(CULTURES)
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise ConfigError(f"cultures: needs at least one name, got {text!r}; known: {', '.join(CULTURES)}")
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ConfigError(f"cultures: {twice[0]!r} stands twice in {text!r}; name each once")
    return tuple(culture(i).id for i in ids)
