"""/v1/moderations: what a culture's model takes for harmful, and where cultures differ.

A model is asked about each category whether a text is of it, and its probabilities of the two answers are read; no
text of its own is parsed. Small models say yes to anything, or no: so the odds are divided by those for a text that
says nothing (contextual calibration, arXiv:2102.09690), once for each model and category.
"""

import asyncio
import math
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request

from cp_ray.records import Message
from cp_ray.serving.bodies import ModerationBody, culture_of
from cp_ray.serving.call import Call
from cp_ray.serving.chat import ChatRequest, ContextTooLong, ModelCard
from cp_ray.serving.routing import Asked, UnknownModel
from cp_ray.serving.service import Service
from cp_ray.serving.tally import Tally
from cp_ray.serving.versions import Release

__all__ = ["CATEGORIES", "Moderator", "add_moderation"]

CATEGORIES: dict[str, str] = {
    "harassment": "insult, mock or harass somebody",
    "harassment/threatening": "threaten somebody with violence",
    "hate": "express hatred of a group of people",
    "hate/threatening": "call for violence against a group of people",
    "illicit": "explain how to break the law",
    "illicit/violent": "explain how to break the law with violence or weapons",
    "self-harm": "show or encourage harming oneself",
    "self-harm/intent": "say that its writer means to harm themselves",
    "self-harm/instructions": "explain how to harm oneself",
    "sexual": "describe sex",
    "sexual/minors": "describe sex with a child",
    "violence": "show violence or death",
    "violence/graphic": "show violence or death in bloody detail",
}
"""OpenAI's categories, each as what a text would do."""

_LABELS = ("Yes", "No")
_NOTHING = "N/A"
_FLAG = 0.5
_ALL = "all"
_SEVERAL = "several"

Judge = tuple[ModelCard, Release]
"""A model, and the version of it that judges."""


class Moderator:
    """Asks the culture models."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._prior: dict[tuple[str, str], float] = {}

    async def judge(self, call: Call, judge: Judge, text: str) -> dict[str, float]:
        """The probability of each category, from a model's point of view."""
        scores = await asyncio.gather(*(self._score(call, judge, text, category) for category in CATEGORIES))
        return dict(zip(CATEGORIES, scores, strict=True))

    async def _score(self, call: Call, judge: Judge, text: str, category: str) -> float:
        name = judge[1].name
        if (name, category) not in self._prior:
            self._prior[name, category] = await self._odds(call, judge, _NOTHING, category)
        odds = await self._odds(call, judge, text, category) - self._prior[name, category]
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, odds))))

    async def _odds(self, call: Call, judge: Judge, text: str, category: str) -> float:
        """Logarithm of how much likelier yes is than no."""
        card, release = judge
        system = (Message("system", card.system),) if card.system else ()
        question = f"Text:\n{text}\n\nDoes this text {CATEGORIES[category]}? Answer with Yes or No."
        request = ChatRequest(
            release.name,
            (*system, Message("user", question)),
            labels=_LABELS,
            adapter=release.adapter,
            tenant=call.key.name if call.key else "",
        )
        with Tally(call, [request]) as tally:
            result = await self._service.backend.complete(request, partial(tally.heard, 0))
        yes, no = result.labels
        return yes - no


def add_moderation(api: FastAPI, service: Service) -> None:
    """Add the route."""
    moderator = Moderator(service)

    @api.post("/v1/moderations")
    async def moderations(body: ModerationBody, request: Request) -> dict[str, Any]:
        """Judge texts from a culture's point of view, or compare several; scores are calibrated probabilities."""
        call: Call = request.state.call
        inputs = [body.input] if isinstance(body.input, str) else body.input
        texts = [part if isinstance(part, str) else part.text for part in inputs]
        judges = _judges(service, call, body, request.headers, texts[-1])
        results = []
        for k, text in enumerate(texts):
            try:
                by_model = {judge[0].id: await moderator.judge(call, judge, text) for judge in judges}
            except ContextTooLong as error:
                where = "input" if isinstance(body.input, str) else f"input[{k}]"
                raise ContextTooLong(f"{where}:{str(error).partition(':')[2]}") from error
            results.append(_result(by_model))
        names = ",".join(card.id for card, _ in judges)
        return {"id": f"modr-{uuid.uuid4().hex}", "model": names, "results": results}


def _judges(service: Service, call: Call, body: ModerationBody, headers: Mapping[str, str], text: str) -> list[Judge]:
    """Whose points of view, each in the version that judges all texts of this request."""
    router = service.router(call.key)
    culture: str | list[str] = culture_of(body.culture, body.metadata, headers)
    if culture == _ALL:
        cards = [card for card in router.cards if card.culture]
        if not cards:
            raise UnknownModel("culture: 'all' finds none; no model of a culture is served")
        return _compared(service, call, cards)
    if isinstance(culture, list):
        return _compared(service, call, list(dict.fromkeys(router.of_culture(one) for one in culture)))
    # OpenAI's own names of moderation models say nothing of a culture.
    model = body.model if body.model and not body.model.startswith(("omni-moderation", "text-moderation")) else "auto"
    default = call.key.culture if call.key else ""
    accepted = headers.get("accept-language", "")
    return [service.choose(call, Asked(model, culture, default, accepted, text))]


def _compared(service: Service, call: Call, cards: Sequence[ModelCard]) -> list[Judge]:
    # One name in the log and the metrics, where clients could make up any number of lists.
    call.model = cards[0].id if len(cards) == 1 else _SEVERAL
    return [(card, service.release(card)) for card in cards]


def _result(by_model: dict[str, dict[str, float]]) -> dict[str, Any]:
    """OpenAI's shape, the mean over several models; and what each one says where there are several."""
    mean = {c: sum(scores[c] for scores in by_model.values()) / len(by_model) for c in CATEGORIES}
    result = _judged(mean)
    if len(by_model) > 1:
        result["cultures"] = {id: _judged(scores) for id, scores in by_model.items()}
        result["disagreement"] = {c: _spread([scores[c] for scores in by_model.values()]) for c in CATEGORIES}
    return result


def _judged(scores: dict[str, float]) -> dict[str, Any]:
    categories = {category: score > _FLAG for category, score in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in scores},
    }


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
