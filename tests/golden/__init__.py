"""What every culture's speakers, judges and respondents are told, word for word."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from cp_ray.cultures import CULTURES
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Candidate, Message, Opinion
from cp_ray.stages.dialogue import DialogueConfig, dialogue
from cp_ray.stages.direct import DirectConfig, direct_prompt
from cp_ray.stages.extract import ExtractConfig, extract_prompt
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.stages.verify import VerifyConfig, judge_prompt, rewrite_prompt
from cp_ray.survey.asking import ask
from cp_ray.survey.read import read_survey

FOLDER = Path(__file__).parent


def prompts(culture: str) -> str:
    """All prompts about one seed of a culture."""
    own, english = CULTURES[culture], CULTURES["english"]
    survey = read_survey()
    seeds = make_seeds(SeedsConfig((own,), survey.content, survey.source), survey.items)
    seed = next(s for s in seeds if s.question_id == "Q40")
    model = Scripted(f"utterance {k}" for k in range(1, 15))
    candidate = Candidate(f"{seed.id}/0", seed)
    (held,) = asyncio.run(dialogue(candidate, model, DialogueConfig("teacher", (own,), english)))
    within = Scripted(f"utterance {k}" for k in range(1, 15))
    asyncio.run(dialogue(candidate, within, DialogueConfig("teacher", (own,), english, "in")))
    opinion = Opinion("o", held.id, seed.id, culture, held.delegate, held.claim, seed.question, "(an opinion)")
    parts = [
        ("delegate, first utterance", model.calls[0][0]),
        ("main contact, last utterance", model.calls[-1][0]),
        ("within the culture, first utterance", within.calls[0][0]),
        ("within the culture, last utterance", within.calls[-1][0]),
        ("direct", direct_prompt(candidate, DirectConfig("teacher", (own,)))),
        ("extract", extract_prompt(held, held.turns[0], ExtractConfig("teacher", (own,)))),
        ("judge", judge_prompt(opinion, VerifyConfig("teacher"))),
        ("rewrite", rewrite_prompt(opinion, VerifyConfig("teacher"))),
        ("extract, as JSON", extract_prompt(held, held.turns[0], ExtractConfig("teacher", (own,), structured=True))),
        ("judge, as JSON", judge_prompt(opinion, VerifyConfig("teacher", structured=True))),
        ("survey", ask(own, seed.question, seed.options, reverse=False)),
        ("survey, options reversed", ask(own, seed.question, seed.options, reverse=True)),
    ]
    return "".join(f"=== {title}\n{_shown(messages)}\n" for title, messages in parts)


def _shown(messages: Sequence[Message]) -> str:
    return "".join(f"[{m.role}] {m.content}\n" for m in messages)
