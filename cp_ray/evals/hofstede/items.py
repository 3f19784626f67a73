"""The 24 items, in our own wording or a user's, put to simulated respondents.

The questionnaire itself may not be copied, so the shipped items ask for its constructs in words of our own; a user who
has it gives a file of the same form. The manual's own warning holds: the instrument compares groups of people, so a
model is asked as many respondents who differ in age, gender, occupation and place, and never as one.
"""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.evals.hofstede.formulas import ITEMS
from cp_ray.records import Item, Message
from cp_ray.survey.asking import FRAMES, persona

__all__ = ["TASK", "HofstedeConfig", "VsmItem", "hofstede_items", "read_items"]

TASK = "hofstede"

SHIPPED = Path(__file__).parent / "items.csv"

_SCALES = {
    "matter": ("it matters most of all", "it matters a lot", "it matters somewhat", "it matters little",
               "it hardly matters"),
    "often": ("always", "usually", "sometimes", "seldom", "never"),
    "agree": ("strongly agree", "agree", "undecided", "disagree", "strongly disagree"),
}  # fmt: skip
"""Names that the column `options` can have in place of five options with `|` between; answer 1 is the first."""

_AGES = (22, 31, 39, 48, 56, 67)
_GENDERS = ("woman", "man")
_OCCUPATIONS = ("teacher", "nurse", "shopkeeper", "farmer", "civil servant", "driver", "manager", "mechanic",
                "cook", "lawyer")  # fmt: skip
_PLACES = ("the capital", "a large city", "a small town", "a village")


@dataclass(frozen=True, slots=True)
class VsmItem:
    """One item."""

    number: int
    question: str
    options: tuple[str, ...]
    """Five; the first is answer 1."""


@dataclass(frozen=True)
class HofstedeConfig:
    """Who is asked, and what."""

    cultures: tuple[Culture, ...]
    items: tuple[VsmItem, ...]
    respondents: int = 30
    """Of each culture."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.respondents < 30:
            raise ConfigError(f"respondents: must be at least 30 of each culture, got {self.respondents}")


def read_items(path: Path | None = None) -> tuple[VsmItem, ...]:
    """The items of a CSV file with the columns number, question, options; None for those that are shipped.

    Raises:
        ConfigError: the file cannot be read, or does not have the 24 items with five options each.
    """
    path = path or SHIPPED
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
        found = [VsmItem(int(line["number"]), line["question"].strip(), _options(line["options"])) for line in lines]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"hofstede-items: {path} cannot be read ({error}); give a CSV file with number, question, options"
        ) from error
    for item in found:
        if not item.question or len(set(item.options)) != 5:
            raise ConfigError(
                f"hofstede-items: {path} item {item.number} must have a question and five different options, "
                f"got {len(item.options)}"
            )
    if sorted(item.number for item in found) != list(ITEMS):
        raise ConfigError(f"hofstede-items: {path} must have each of the items 1 to 24 once, got {len(found)}")
    return tuple(sorted(found, key=lambda item: item.number))


def hofstede_items(config: HofstedeConfig) -> list[Item]:
    """Every item for every respondent of every culture; half of the respondents see the options from the other end."""
    return [
        Item(
            id=f"{TASK}/{culture.id}/{number}/{item.number}",
            culture=culture.id,
            task=TASK,
            messages=_chat(culture, person, item, reverse=bool(number % 2)),
            options=item.options,
            source=str(item.number),
        )
        for culture in config.cultures
        for number, person in enumerate(_people(config.respondents, config.seed))
        for item in config.items
    ]


def _chat(culture: Culture, person: str, item: VsmItem, *, reverse: bool) -> tuple[Message, ...]:
    shown = "; ".join(reversed(item.options) if reverse else item.options)
    user = FRAMES[0].format(question=item.question, options=shown)
    return Message("system", f"{persona(culture)} {person}"), Message("user", user)


def _people(n: int, seed: int) -> list[str]:
    """As many of each age, gender, occupation and place as can be, combined by lot; the same in every culture."""
    draw = random.Random(seed)

    def column(values: Sequence[object]) -> list[object]:
        drawn = [values[k % len(values)] for k in range(n)]
        draw.shuffle(drawn)
        return drawn

    columns = (column(_AGES), column(_GENDERS), column(_OCCUPATIONS), column(_PLACES))
    return [
        f"You are {age} years old, a {gender}, work as a {occupation}, and live in {place}."
        for age, gender, occupation, place in zip(*columns, strict=True)
    ]


def _options(text: str) -> tuple[str, ...]:
    return _SCALES.get(text.strip()) or tuple(part.strip() for part in text.split("|") if part.strip())
