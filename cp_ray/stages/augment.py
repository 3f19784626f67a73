"""augment: other wordings of a survey question that ask the same (CultureLLM's semantic augmentation).

Three ways, each a stage: sentences of another structure (`templates`), other words in a sentence (`synonyms`), and a
translation there and back (`back_translations`). Whether a wording asks the same is not judged here: see `check`.
"""

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cp_ray.errors import ConfigError
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.paraphrase.words import Word, read_words
from cp_ray.records import Message, Paraphrase, Seed
from cp_ray.stages.text import read_list, trim_to_sentence

__all__ = [
    "BackTranslationsConfig", "SynonymsConfig", "TemplatesConfig", "back_translations", "own_wording", "replaceable",
    "substitute", "synonyms", "templates",
]  # fmt: skip

_STRINGS = {"type": "array", "items": {"type": "string"}}
_SENTENCES = schema_text(
    {"type": "object", "properties": {"sentences": _STRINGS}, "required": ["sentences"], "additionalProperties": False}
)
_SYNONYMS = schema_text(
    {
        "type": "object",
        "properties": {
            "words": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"number": {"type": "integer"}, "synonyms": _STRINGS},
                    "required": ["number", "synonyms"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["words"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class TemplatesConfig:
    """How sentences of another structure are asked for."""

    teacher: str
    drafts: int = 10
    """Asked for in one call; more than are wanted, since some will not ask the same."""
    temperature: float = 0.7
    draft_tokens: int = 64
    """That one of them may have."""
    seed: int = 0
    system: str = "You word survey questions anew without changing what they ask."
    user: str = (
        'Survey question: "{question}"\nPossible answers: {options}\n'
        "Write a numbered list of {n} other wordings. Each has a different sentence structure, asks exactly the same, "
        "can be answered with the same answers, and each answer still means the same."
    )
    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    user_json: str = (
        'Survey question: "{question}"\nPossible answers: {options}\n'
        "Give {n} other wordings. Each has a different sentence structure, asks exactly the same, can be answered with "
        'the same answers, and each answer still means the same. Answer with JSON: {{"sentences": [...]}}.'
    )

    def __post_init__(self) -> None:
        if self.drafts < 1:
            raise ConfigError(f"drafts: must be at least 1, got {self.drafts}")


@dataclass(frozen=True)
class SynonymsConfig:
    """How words are exchanged for others."""

    teacher: str
    draws: int = 10
    """Sentences made of each, with other words at random."""
    synonyms: int = 5
    """Asked for, of each word."""
    share: float = 0.5
    """Of the words that are exchanged in a draw, on average."""
    temperature: float = 0.7
    word_tokens: int = 64
    """That the answer about one word may have."""
    seed: int = 0
    system: str = "You know which words can stand for another within a sentence."
    user: str = (
        'Sentence: "{sentence}"\nFor each word below write up to {n} words or short phrases that could replace it in '
        "this sentence without changing the sentence's meaning or breaking its grammar, in the same form (number, "
        "tense). One numbered line a word, the replacements with commas between; nothing after the number if there are "
        "none.\n{words}"
    )
    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    user_json: str = (
        'Sentence: "{sentence}"\nFor each word below give up to {n} words or short phrases that could replace it in '
        "this sentence without changing the sentence's meaning or breaking its grammar, in the same form (number, "
        'tense). Answer with JSON: {{"words": [{{"number": 1, "synonyms": [...]}}, ...]}}.\n{words}'
    )

    def __post_init__(self) -> None:
        for name in ("draws", "synonyms"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True)
class BackTranslationsConfig:
    """Into which languages and back."""

    teacher: str
    languages: tuple[str, ...] = (
        "German", "French", "Russian", "Chinese", "Arabic", "Japanese", "Finnish", "Turkish", "Hindi", "Swahili",
    )  # fmt: skip
    temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    system: str = "You translate survey questions. You write the translation and nothing else."
    user: str = "Translate into {language}: {text}"


def own_wording(seed: Seed) -> Paraphrase:
    """The survey's own wording of a seed's question, as a row among the others."""
    return Paraphrase(
        f"{seed.question_id}/survey", seed.question_id, seed.question, seed.options, seed.question, "survey"
    )


async def templates(wording: Paraphrase, generate: Generate, config: TemplatesConfig) -> list[Paraphrase]:
    """Sentences of another structure; one rejected row where there is none."""
    template = config.user_json if config.structured else config.user
    user = template.format(question=wording.question, options="; ".join(wording.options), n=config.drafts)
    messages = [Message("system", config.system), Message("user", user)]
    sampling = Sampling(config.temperature, config.drafts * config.draft_tokens, config.seed)
    if config.structured:
        found = await ask_json(generate, messages, replace(sampling, schema=_SENTENCES))
        texts, reject = (found.value or {}).get("sentences", []), found.reject
    else:
        answer = await generate(messages, sampling)
        cut_off = answer.finish_reason == "length"
        texts = read_list(trim_to_sentence(answer.text) if cut_off else answer.text)
        reject = None if cut_off or answer.finish_reason == "stop" else answer.finish_reason
    texts = [text.strip().strip('"“”') for text in texts[: config.drafts]]
    if reject is None and not texts:
        reject = "no wording given"
    if reject is not None:
        return [_row(wording, "template", 0, "", reject)]
    return [_row(wording, "template", k, text, None if text else "empty") for k, text in enumerate(texts)]


async def synonyms(wording: Paraphrase, generate: Generate, config: SynonymsConfig) -> list[Paraphrase]:
    """The wording with other words in it, drawn at random from those that the teacher gives; all different.

    The teacher is shown each word with its part of speech and its sentence.
    """
    words = replaceable(wording)
    if not words:
        return [_row(wording, "synonym", 0, "", "no word to exchange")]
    choices, reject = await _choices(wording.text, words, generate, config)
    if reject is not None or not choices:
        return [_row(wording, "synonym", 0, "", reject or "no synonym given")]
    # Seeded by the wording's own id, so that its sentences are the same whichever others are in the run.
    rng = random.Random(f"{config.seed}/{wording.id}")
    made = dict.fromkeys(_drawn(wording.text, choices, config.share, rng) for _ in range(config.draws))
    return [_row(wording, "synonym", k, text) for k, text in enumerate(made)]


async def back_translations(
    wording: Paraphrase, generate: Generate, config: BackTranslationsConfig
) -> list[Paraphrase]:
    """The question after a way through each language."""

    async def through(number: int, language: str) -> Paraphrase:
        text, reject = wording.text, None
        for target in (language, "English"):
            messages = [
                Message("system", config.system),
                Message("user", config.user.format(language=target, text=text)),
            ]
            answer = await generate(messages, Sampling(config.temperature, config.max_tokens, config.seed))
            text, reject = answer.text.strip(), None if answer.finish_reason == "stop" else answer.finish_reason
            if reject is not None or not text:
                return _row(wording, "translation", number, "", reject or "empty")
        return _row(wording, "translation", number, text)

    return list(await asyncio.gather(*(through(k, language) for k, language in enumerate(config.languages))))


def replaceable(wording: Paraphrase) -> list[Word]:
    """The words that may be exchanged: nouns, verbs, adjectives and adverbs, but none of the answers' words."""
    fixed = {word.lemma for option in wording.options for word in read_words(option)}
    return [
        word
        for word in read_words(wording.text)
        if word.is_content and word.tag.startswith(("NN", "VV", "AJ", "AV0")) and word.lemma not in fixed
    ]


def substitute(text: str, chosen: Mapping[Word, str]) -> str:
    """`text` with other words in the places of some; `a` and `an` and capitals follow."""
    for word, new in sorted(chosen.items(), key=lambda pair: -pair[0].start):
        new = new[0].upper() + new[1:] if word.text[0].isupper() else new
        before, after = text[: word.start], text[word.end :]
        head, space, last = before.rstrip().rpartition(" ")
        if last.lower() in ("a", "an"):
            last = last[0] + ("n" if new[0].lower() in "aeiou" else "")
            before = f"{head}{space}{last} "
        text = before + new + after
    return text


async def _choices(
    sentence: str, words: Sequence[Word], generate: Generate, config: SynonymsConfig
) -> tuple[dict[Word, list[str]], str | None]:
    """What may stand for each word, or why nothing is known."""
    listed = "\n".join(f"{k}. {word.text} ({_part(word)})" for k, word in enumerate(words, 1))
    template = config.user_json if config.structured else config.user
    user = template.format(sentence=sentence, n=config.synonyms, words=listed)
    messages = [Message("system", config.system), Message("user", user)]
    sampling = Sampling(config.temperature, len(words) * config.word_tokens, config.seed)
    if config.structured:
        found = await ask_json(generate, messages, replace(sampling, schema=_SYNONYMS))
        if found.reject is not None:
            return {}, found.reject
        given = {entry["number"]: entry["synonyms"] for entry in found.value["words"]}
    else:
        answer = await generate(messages, sampling)
        if answer.finish_reason not in ("stop", "length"):
            return {}, answer.finish_reason
        lines = answer.text.splitlines()[: -1 if answer.finish_reason == "length" else None]
        given = {k: read_list(line)[0].split(",") for k, line in _numbered(lines)}
    cleaned = {word: _usable(given.get(k, []), word)[: config.synonyms] for k, word in enumerate(words, 1)}
    return {word: choice for word, choice in cleaned.items() if choice}, None


def _numbered(lines: Sequence[str]) -> list[tuple[int, str]]:
    found = [(re.match(r"\s*(\d+)", line, re.ASCII), line) for line in lines if read_list(line)]
    return [(int(number[1]), line) for number, line in found if number]


def _usable(given: Sequence[str], word: Word) -> list[str]:
    """Words or short phrases; not the word itself."""
    texts = dict.fromkeys(text.strip().strip('"“”.;').strip() for text in given)
    return [
        text
        for text in texts
        if text and text.lower() != word.text.lower() and len(text.split()) <= 3 and text.replace(" ", "").isalpha()
    ]


def _drawn(text: str, choices: Mapping[Word, Sequence[str]], share: float, rng: random.Random) -> str:
    chosen = {word: rng.choice(new) for word, new in choices.items() if rng.random() < share}
    if not chosen:
        word = rng.choice(list(choices))
        chosen = {word: rng.choice(choices[word])}
    return substitute(text, chosen)


def _part(word: Word) -> str:
    names = {"NN": "noun", "VV": "verb", "AJ": "adjective", "AV": "adverb"}
    return next(name for tag, name in names.items() if word.tag.startswith(tag))


def _row(wording: Paraphrase, way: str, number: int, text: str, reject: str | None = None) -> Paraphrase:
    from_survey = wording.way == "survey"
    stem = wording.question_id if from_survey else wording.id
    return Paraphrase(
        id=f"{stem}/{way}/{number}",
        question_id=wording.question_id,
        question=wording.question,
        options=wording.options,
        text=text,
        way=way,
        parents=() if from_survey else (wording.id,),
        reject=reject,
    )
