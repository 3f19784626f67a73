"""verify: does an opinion agree with what the survey says?

An opinion that contradicts the survey is rewritten once, and it is the *rewritten* text that is judged again.
"""

from dataclasses import dataclass, replace
from typing import get_args

from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Message, Opinion, Relation
from cp_ray.stages.text import read_word, trim_to_sentence

__all__ = ["VerifyConfig", "judge_prompt", "parse_relation", "rewrite_prompt", "verify"]


@dataclass(frozen=True)
class VerifyConfig:
    """How opinions are judged and rewritten."""

    teacher: str
    temperature: float = 0.0
    judge_tokens: int = 8
    rewrite_tokens: int = 64
    seed: int = 0
    judge_system: str = "You compare two statements and answer with one word."
    judge_user: str = (
        "A: {claim}\nB: {text}\n"
        "Does B entail A, contradict A, or is it irrelevant to A? "
        "Answer with one word: entail, contradict or irrelevant."
    )
    rewrite_system: str = "You correct statements."
    rewrite_user: str = (
        "A: {claim}\nB: {text}\nB contradicts A. Write B anew as one sentence that agrees with A. Write nothing else."
    )


async def verify(opinion: Opinion, generate: Generate, config: VerifyConfig) -> list[Opinion]:
    """The opinion with its relation to the survey; rejected unless it entails what the survey says."""
    judged = await _judge(opinion, generate, config)
    if judged.relation != "contradict":
        return [judged]
    sampling = Sampling(config.temperature, config.rewrite_tokens, config.seed)
    answer = await generate(rewrite_prompt(opinion, config), sampling)
    text = trim_to_sentence(answer.text)
    if answer.finish_reason not in ("stop", "length") or not text:
        return [replace(judged, reject="contradicts the survey, and no rewrite was given")]
    again = await _judge(replace(opinion, text=text, rewritten=True), generate, config)
    if again.relation == "contradict":
        return [replace(again, reject="contradicts the survey, rewritten too")]
    return [again]


def judge_prompt(opinion: Opinion, config: VerifyConfig) -> list[Message]:
    """What the teacher is asked about an opinion."""
    user = config.judge_user.format(claim=opinion.claim, text=opinion.text)
    return [Message("system", config.judge_system), Message("user", user)]


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
    answer = await generate(
        judge_prompt(opinion, config), Sampling(config.temperature, config.judge_tokens, config.seed)
    )
    if answer.finish_reason not in ("stop", "length"):
        return replace(opinion, reject=answer.finish_reason)
    relation = parse_relation(answer.text)
    if relation is None:
        return replace(opinion, reject="judgement not understood")
    return replace(opinion, relation=relation, reject="irrelevant to the survey" if relation == "irrelevant" else None)
