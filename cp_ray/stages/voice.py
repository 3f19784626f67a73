"""voice: an opinion of a people ("Turks think that work matters") as one of them says it ("I think that work matters").

CulturePark trains on first-person texts that it makes by replacing substrings, which also changes other words. Here
either English grammar does it, or the teacher; both say why where a text cannot be told in the first person.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture, of
from cp_ray.english.first_person import first_person, times_named
from cp_ray.english.words import OpenQuotation, content
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Message, Opinion
from cp_ray.stages.text import article

__all__ = ["GrammarConfig", "VoiceConfig", "parse_voice", "voice", "voice_by_grammar", "voice_prompt"]

_SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
)
_FIRST_PERSON = frozenset(("i", "me", "my", "mine", "myself", "i'm", "i've", "i'd", "i'll"))


@dataclass(frozen=True)
class GrammarConfig:
    """How opinions are put into the first person by grammar."""

    cultures: tuple[Culture, ...]
    """Of the opinions."""
    edition: int = 1
    """Of the rules."""


@dataclass(frozen=True)
class VoiceConfig:
    """How the teacher puts opinions into the first person."""

    teacher: str
    cultures: tuple[Culture, ...]
    """Of the opinions."""
    temperature: float = 0.0
    max_tokens: int = 96
    seed: int = 0
    kept: float = 0.6
    """Share of the opinion's nouns, adjectives and verbs that have to stand in the answer."""
    system: str = "You put sentences into the first person. You change nothing else."
    user: str = (
        'Sentence: "{text}"\nWrite it as {a_culture} person would say it, with "I" in place of {people}. '
        "Write the sentence alone."
    )
    structured: bool = False
    """Ask for JSON by a schema, without the example; for teachers that can."""
    user_json: str = (
        'Sentence: "{text}"\nWrite it as {a_culture} person would say it, with "I" in place of {people}. '
        'Answer with JSON: {{"text": "..."}}.'
    )
    example_text: str = "{people} like to eat with their whole family."
    example_answer: str = "I like to eat with my whole family."

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= 1:
            raise ConfigError(f"kept: must be between 0 and 1, got {self.kept}")


def voice_by_grammar(opinions: Iterable[Opinion], config: GrammarConfig) -> list[Opinion]:
    """The opinions in the first person; those of which it is not sure how are rejected.

    One that does not speak of the people stays as it is.
    """
    made = []
    for opinion in opinions:
        told = first_person(opinion.text, of(config.cultures, opinion.culture))
        made.append(replace(opinion, text=told.text, reject=told.reject and f"no first person: {told.reject}"))
    return made


async def voice(opinion: Opinion, generate: Generate, config: VoiceConfig) -> list[Opinion]:
    """The opinion in the first person, by the teacher; rejected if the answer is not the same opinion.

    One that does not speak of the people stays as it is, and costs no call.
    """
    culture = of(config.cultures, opinion.culture)
    if not _named(opinion.text, culture):
        return [opinion]
    text, reject = await (_told_json if config.structured else _told)(opinion, generate, config)
    if reject is None:
        text, reject = parse_voice(text, opinion.text, culture, config.kept)
    return [replace(opinion, text=text, reject=None) if reject is None else replace(opinion, reject=reject)]


def voice_prompt(opinion: Opinion, config: VoiceConfig) -> list[Message]:
    """What the teacher is sent about an opinion."""
    culture = of(config.cultures, opinion.culture)

    def asked(template: str, text: str) -> Message:
        return Message("user", template.format(text=text, people=culture.people, a_culture=article(culture.adjective)))

    if config.structured:
        return [Message("system", config.system), asked(config.user_json, opinion.text)]
    return [
        Message("system", config.system),
        asked(config.user, config.example_text.format(people=culture.people)),
        Message("assistant", config.example_answer),
        asked(config.user, opinion.text),
    ]


def parse_voice(answer: str, opinion: str, culture: Culture, kept: float) -> tuple[str, str | None]:
    """The answer without quotation marks around it, and why it cannot be used (None: it can)."""
    text = answer.strip()
    if len(text) > 1 and text[0] in '"“' and text[-1] in '"”' and not set(text[1:-1]) & set('"“”'):
        text = text[1:-1].strip()
    if not text or "\n" in text:
        return text, "not one sentence"
    said = {word.strip('.,;:!?"“”()') for word in text.lower().replace("’", "'").split()}
    if not said & _FIRST_PERSON:
        return text, "not in the first person"
    if _named(text, culture) >= _named(opinion, culture):
        return text, "still tells of the people"
    before = content(opinion) - content(culture.people) - content(culture.adjective) - {"people"}
    if len(before & content(text)) < kept * len(before):
        return text, "says something else"
    return text, None


def _named(text: str, culture: Culture) -> int:
    """How often the people are named; a quotation that does not end may hold anything."""
    try:
        return times_named(text, culture)
    except OpenQuotation:
        return 1


async def _told(opinion: Opinion, generate: Generate, config: VoiceConfig) -> tuple[str, str | None]:
    """The answer, or why there is none."""
    answer = await generate(voice_prompt(opinion, config), Sampling(config.temperature, config.max_tokens, config.seed))
    if answer.finish_reason == "length":
        return "", "cut off"
    return answer.text, None if answer.finish_reason == "stop" else answer.finish_reason


async def _told_json(opinion: Opinion, generate: Generate, config: VoiceConfig) -> tuple[str, str | None]:
    """The same, asked for as JSON."""
    sampling = Sampling(config.temperature, config.max_tokens, config.seed, _SCHEMA)
    answer = await ask_json(generate, voice_prompt(opinion, config), sampling)
    return ("", answer.reject) if answer.reject is not None else (answer.value["text"], None)
