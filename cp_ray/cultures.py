"""The cultures: ten in one table, and those of a user's file.

A culture is a research unit, not a people: here it is the respondents of some countries of a survey. Where
it has several countries, each counts the same, however many people were asked there.

Cultures travel as data: a step is handed the `Culture` objects that it works on. So a user's own goes wherever
a shipped one does, and whoever changes one word of a culture gets rows made with that word.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_ray.errors import ConfigError

__all__ = [
    "CULTURES",
    "NEIGHBOURS",
    "Culture",
    "Persona",
    "of",
    "one_of",
    "parse_cultures",
    "read_cultures",
    "restored",
]


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
    """The survey's countries: ISO 3166 alpha-3 codes, or names as they stand in the survey."""
    female: Persona
    male: Persona
    hofstede: str = ""
    """Its row in Hofstede's table of countries; empty if it has none."""


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


NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "arabic": ("turkish", "bengali"),
    "bengali": ("arabic", "turkish"),
    "chinese": ("korean",),
    "english": ("german",),
    "german": ("english", "greek"),
    "greek": ("german", "turkish"),
    "korean": ("chinese",),
    "portuguese": ("spanish",),
    "spanish": ("portuguese",),
    "turkish": ("arabic", "greek"),
}
"""Whom a culture is learnt from as if it had never been asked: those near it in region, history or language. The choice
is ours; others could be made."""

_FIELDS = ("id", "adjective", "people", "language", "locales", "countries", "female", "male")
_LISTS = ("locales", "countries")
_OPTIONAL = ("hofstede",)
_TAKEN = ("all", "auto", "base", "uniform", "first", "last", "modal", "others", "scale", "human", "unified")
"""Ids that mean something else: every culture, whichever suits, and the models and answerers that have no culture."""


def of(cultures: Iterable[Culture], id: str) -> Culture:
    """The culture with this id.

    Raises:
        ConfigError: there is none among these.
    """
    cultures = tuple(cultures)
    for one in cultures:
        if one.id == id:
            return one
    raise ConfigError(f"cultures: the rows speak of {id!r}, the step was given {', '.join(c.id for c in cultures)}")


def parse_cultures(text: str, known: Mapping[str, Culture] = CULTURES) -> tuple[Culture, ...]:
    """The known cultures that `arabic,german` names; `all` means every one.

    Raises:
        ConfigError: a name is unknown or stands twice, or there is none.
    """
    if text.strip() == "all":
        return tuple(known.values())
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise ConfigError(f"cultures: needs at least one name, got {text!r}; known: {', '.join(known)}")
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ConfigError(f"cultures: {twice[0]!r} stands twice in {text!r}; name each once")
    return tuple(one_of(id, known) for id in ids)


def one_of(id: str, known: Mapping[str, Culture], field: str = "cultures") -> Culture:
    """The known culture of this id.

    Raises:
        ConfigError: there is none; the message names the field and the nearest.
    """
    if id in known:
        return known[id]
    near = difflib.get_close_matches(id.lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{field}: no culture is called {id!r}; {hint}known: {', '.join(known)}")


def read_cultures(path: Path) -> dict[str, Culture]:
    """The cultures of a JSON file, by id: a list of objects with a culture's fields, `female` and `male` as names.

    Raises:
        ConfigError: the file cannot be read, or an entry breaks a rule.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cultures-file: {path} cannot be read ({error}); give a JSON file in UTF-8") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"cultures-file: {path} must hold a list of at least one culture, got {_shown(entries)}")
    cultures: dict[str, Culture] = {}
    for number, entry in enumerate(entries, 1):
        one = _entry(f"cultures-file: {path} culture {number}", entry)
        if one.id in cultures:
            raise ConfigError(f"cultures-file: {path} culture {number}: {one.id!r} stands twice; give each its own id")
        cultures[one.id] = one
    return cultures


def restored(fields: Any) -> Culture:
    """The culture of a manifest's config: the inverse of `dataclasses.asdict`, whose tuples became lists in JSON.

    Raises:
        ConfigError: these are not a culture's fields.
    """
    try:
        lists = {name: tuple(fields[name]) for name in _LISTS}
        people = {name: Persona(**fields[name]) for name in ("female", "male")}
        return Culture(**{**fields, **lists, **people})
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"culture: {_shown(fields)} in a manifest is not a culture's fields; do that step again"
        ) from error


def _entry(where: str, entry: Any) -> Culture:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be an object with {', '.join(_FIELDS)}, got {_shown(entry)}")
    unknown = [key for key in entry if key not in _FIELDS + _OPTIONAL]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(_FIELDS + _OPTIONAL)}")
    missing = [key for key in _FIELDS if key not in entry]
    if missing:
        raise ConfigError(f"{where}: lacks the key {missing[0]!r}; it needs {', '.join(_FIELDS)}")
    for key, value in entry.items():
        (_check_list if key in _LISTS else _check_text)(f"{where}: {key}", value)
    if not re.fullmatch("[a-z][a-z0-9_]*", entry["id"]) or entry["id"] in _TAKEN:
        raise ConfigError(
            f"{where}: id must be of a-z, 0-9 and _, begin with a letter, and not be {', '.join(_TAKEN)}, "
            f"got {entry['id']!r}"
        )
    if entry["female"] == entry["male"]:
        raise ConfigError(f"{where}: female and male must be different names, got {entry['male']!r} twice")
    people = {"female": Persona(entry["female"], "woman"), "male": Persona(entry["male"], "man")}
    return Culture(**{**entry, **{key: tuple(entry[key]) for key in _LISTS}, **people})


def _check_text(what: str, value: Any) -> None:
    # One line and nothing around it, since it stands within sentences that a model reads.
    if not isinstance(value, str) or not value.strip() or value != value.strip() or len(value.splitlines()) != 1:
        raise ConfigError(f"{what} must be a line of text without blanks around it, got {_shown(value)}")


def _check_list(what: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{what} must be a list of at least one text, got {_shown(value)}")
    for part in value:
        _check_text(f"{what}: each", part)
    if len(set(value)) < len(value):
        raise ConfigError(f"{what} must not name anything twice, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
