"""translate: a question's wordings and its options in a culture's own language, in one call, so that they fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Message, Paraphrase, Translation
from cp_ray.stages.text import read_list

__all__ = ["TranslateConfig", "to_translate", "translate", "translate_prompt"]

_STRINGS = {"type": "array", "items": {"type": "string"}}
_SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {"texts": _STRINGS, "options": _STRINGS},
        "required": ["texts", "options"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class TranslateConfig:
    """How a translation is asked for."""

    teacher: str
    temperature: float = 0.0
    line_tokens: int = 160
    """That one line may have; some scripts take several tokens a letter."""
    seed: int = 0
    system: str = "You translate survey questions so that they ask exactly the same."
    user: str = (
        "Translate each line into {language}. Keep the numbers; write nothing else. The first {n} lines are wordings "
        "of one survey question, the others its possible answers.\n{lines}"
    )
    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    user_json: str = (
        "Translate into {language}. The first {n} lines are wordings of one survey question, the others its possible "
        'answers.\n{lines}\nAnswer with JSON: {{"texts": [the wordings], "options": [the answers]}}, each in its order.'
    )


def to_translate(wordings: Sequence[Paraphrase], cultures: Sequence[Culture]) -> list[Translation]:
    """What there is to translate, in English: a row for each question and each language but English."""
    by_question: dict[str, list[Paraphrase]] = {}
    for wording in wordings:
        if wording.reject is None:
            by_question.setdefault(wording.question_id, []).append(wording)
    languages = dict.fromkeys(culture.language for culture in cultures if culture.language != "English")
    return [
        Translation(
            f"{language}/{question_id}", language, question_id,
            tuple(w.id for w in own), tuple(w.text for w in own), own[0].options,
        )
        for language in languages
        for question_id, own in by_question.items()
    ]  # fmt: skip


async def translate(row: Translation, generate: Generate, config: TranslateConfig) -> list[Translation]:
    """The row in its language; rejected unless there is one text for each."""
    messages = translate_prompt(row, config)
    lines = len(row.texts) + len(row.options)
    sampling = Sampling(config.temperature, lines * config.line_tokens, config.seed)
    if config.structured:
        found = await ask_json(generate, messages, replace(sampling, schema=_SCHEMA))
        if found.reject is not None:
            return [replace(row, reject=found.reject)]
        return [_filled(row, found.value["texts"], found.value["options"])]
    answer = await generate(messages, sampling)
    if answer.finish_reason != "stop":
        return [replace(row, reject="cut off" if answer.finish_reason == "length" else answer.finish_reason)]
    listed = read_list(answer.text)
    return [_filled(row, listed[: len(row.texts)], listed[len(row.texts) :])]


def translate_prompt(row: Translation, config: TranslateConfig) -> list[Message]:
    """What the teacher is sent."""
    lines = "\n".join(f"{k}. {text}" for k, text in enumerate((*row.texts, *row.options), 1))
    template = config.user_json if config.structured else config.user
    return [
        Message("system", config.system),
        Message("user", template.format(language=row.language, n=len(row.texts), lines=lines)),
    ]


def _filled(row: Translation, texts: Sequence[str], options: Sequence[str]) -> Translation:
    texts, options = [text.strip() for text in texts], [option.strip() for option in options]
    if len(texts) != len(row.texts) or len(options) != len(row.options):
        return replace(row, reject="not one line for each")
    if not all(texts) or len(set(options)) != len(options) or not all(options):
        return replace(row, reject="an empty line, or two options alike")
    return replace(row, texts=tuple(texts), options=tuple(options))
