"""verify: does an opinion agree with what the survey says?

An opinion that contradicts the survey is rewritten once, and it is the *rewritten* text that is judged again. Where the
teacher tells the log-probabilities of its answers, an opinion keeps by how much its relation was the likeliest.
"""

from dataclasses import dataclass, replace
from typing import get_args

from cp_ray.llm.call import Completion, Generate, Sampling
from cp_ray.llm.labels import label_margin
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Message, Opinion, Relation
from cp_ray.stages.text import read_word, trim_to_sentence

__all__ = ["VerifyConfig", "judge_prompt", "parse_relation", "rewrite_prompt", "verify"]

_SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {"relation": {"type": "string", "enum": list(get_args(Relation))}},
        "required": ["relation"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class VerifyConfig:
    """How opinions are judged and rewritten."""

    teacher: str
    temperature: float = 0.0
    judge_tokens: int = 8
    rewrite_tokens: int = 64
    seed: int = 0
    judge_system: str = (
        "You compare an opinion with a survey's result. You answer with one word: entail, contradict or irrelevant."
    )
    judge_user: str = (
        'Survey: {claim}\nOpinion: "{text}"\n'
        "Does the opinion entail the survey's result, contradict it, or is it irrelevant to it?"
    )
    structured: bool = False
    """Ask for JSON by a schema, without the examples; for teachers that can."""
    judge_user_json: str = (
        'Survey: {claim}\nOpinion: "{text}"\n'
        "Does the opinion entail the survey's result, contradict it, or is it irrelevant to it? Answer with JSON: "
        '{{"relation": "entail"}}, "contradict" or "irrelevant".'
    )
    judge_system_json: str = "You compare an opinion with a survey's result."
    json_tokens: int = 24
    logprobs: int | None = 10
    """So many of the likeliest tokens are asked for, to tell by how much a relation was the likeliest; None: none."""
    example_claim: str = 'Asked "Is it good to eat with the whole family?", people most often answer "Agree".'
    examples: tuple[tuple[str, Relation], ...] = (
        ("It is better when each eats alone.", "contradict"),
        ("Bread is baked early in the morning.", "irrelevant"),
        ("A meal with everybody keeps a family together.", "entail"),
    )
    """Shown before the question; small teachers answer in the form they have seen."""
    rewrite_system: str = "You correct sentences."
    rewrite_user: str = (
        'Survey: {claim}\nOpinion: "{text}"\n'
        "The opinion contradicts the survey. Write the opinion anew, as one sentence that agrees with the survey."
    )


async def verify(opinion: Opinion, generate: Generate, config: VerifyConfig) -> list[Opinion]:
    """The opinion with its relation to the survey; rejected unless it entails what the survey says."""
    judged = await _judge(opinion, generate, config)
    if judged.relation != "contradict":
        return [judged]
    sampling = Sampling(config.temperature, config.rewrite_tokens, config.seed)
    answer = await generate(rewrite_prompt(opinion, config), sampling)
    text = trim_to_sentence(answer.text) if answer.finish_reason == "length" else answer.text.strip()
    if answer.finish_reason not in ("stop", "length") or not text:
        return [replace(judged, reject="contradicts the survey, and no rewrite was given")]
    again = await _judge(replace(opinion, text=text, rewritten=True), generate, config)
    if again.relation == "contradict":
        return [replace(again, reject="contradicts the survey, rewritten too")]
    return [again]


def judge_prompt(opinion: Opinion, config: VerifyConfig) -> list[Message]:
    """What the teacher is asked about an opinion, after an example of each answer."""
    if config.structured:
        asked = config.judge_user_json.format(claim=opinion.claim, text=opinion.text)
        return [Message("system", config.judge_system_json), Message("user", asked)]
    messages = [Message("system", config.judge_system)]
    for text, relation in config.examples:
        messages.append(Message("user", config.judge_user.format(claim=config.example_claim, text=text)))
        messages.append(Message("assistant", relation))
    messages.append(Message("user", config.judge_user.format(claim=opinion.claim, text=opinion.text)))
    return messages


def rewrite_prompt(opinion: Opinion, config: VerifyConfig) -> list[Message]:
    """What the teacher is asked about an opinion that contradicts the survey."""
    user = config.rewrite_user.format(claim=opinion.claim, text=opinion.text)
    return [Message("system", config.rewrite_system), Message("user", user)]


def parse_relation(text: str) -> Relation | None:
    """The judgement, or None if the answer is anything but one of the three words."""
    for relation in get_args(Relation):
        if read_word(text, (relation, f"{relation}s")):
            return relation  # type: ignore[no-any-return]
    return None


async def _judge(opinion: Opinion, generate: Generate, config: VerifyConfig) -> Opinion:
    relation, reject, answer = await (_judged_json if config.structured else _judged)(opinion, generate, config)
    if relation is None or answer is None:
        return replace(opinion, relation=None, margin=None, no_margin=reject, reject=reject)
    margin, lacking = label_margin(answer, relation, get_args(Relation))
    reject = "irrelevant to the survey" if relation == "irrelevant" else None
    return replace(opinion, relation=relation, margin=margin, no_margin=lacking, reject=reject)


_Judged = tuple[Relation | None, str | None, Completion | None]
"""The relation, or why there is none; and the answer that says so."""


async def _judged(opinion: Opinion, generate: Generate, config: VerifyConfig) -> _Judged:
    sampling = Sampling(config.temperature, config.judge_tokens, config.seed, logprobs=config.logprobs)
    answer = await generate(judge_prompt(opinion, config), sampling)
    if answer.finish_reason not in ("stop", "length"):
        return None, answer.finish_reason, None
    relation = parse_relation(answer.text)
    return relation, None if relation else "judgement not understood", answer


async def _judged_json(opinion: Opinion, generate: Generate, config: VerifyConfig) -> _Judged:
    """The same, asked for as JSON."""
    sampling = Sampling(config.temperature, config.json_tokens, config.seed, _SCHEMA, config.logprobs)
    found = await ask_json(generate, judge_prompt(opinion, config), sampling)
    return (found.value["relation"], None, found.answer) if found.reject is None else (None, found.reject, None)
