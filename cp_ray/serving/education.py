"""/v1/education: guess how a culture's people answered the survey, and learn how they really did.

Nothing is kept here: a learner's answers come with each request, so progress is where the learner is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field

from cp_ray.evals.distances import emd
from cp_ray.serving.bodies import Text
from cp_ray.serving.chat import BadRequest, ModelCard, ModelSpec
from cp_ray.serving.openai_shapes import Refusal
from cp_ray.serving.routing import UnknownModel
from cp_ray.serving.service import Service
from cp_ray.survey.items import Item, Source, pooled
from cp_ray.survey.read import WVS7

__all__ = ["add_education"]

Shares = Annotated[list[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]], Field(min_length=2)]
_SUM = 0.02
"""By which guessed shares may miss 1."""


class Guess(BaseModel):
    """What a learner takes the answers of a culture's people to be."""

    question: Text
    """Its id."""
    option: int | None = None
    """The commonest answer, counted from 0."""
    shares: Shares | None = None
    """Or the share of each option."""


class QuizBody(Guess):
    """A guess on one question."""

    culture: Text


class ExamBody(BaseModel):
    """All guesses of a learner."""

    culture: Text
    guesses: Annotated[list[Guess], Field(min_length=1, max_length=200)]


def add_education(api: FastAPI, service: Service, items: Sequence[Item]) -> None:
    """Add the routes; `items`: of the shipped survey, for models whose run is not known."""
    answers = _Answers(service, items)

    @api.get("/v1/education/quiz")
    async def quiz(culture: Annotated[str, Query(max_length=100)], request: Request) -> dict[str, Any]:
        """The questions that a culture's people were asked, without their answers."""
        asked = answers.of(*_allowed(service, request, culture))
        questions = [
            {"id": item.id, "topic": item.topic, "question": item.question, "options": list(item.options)}
            for item, _ in asked.known.values()
        ]
        survey = {"name": asked.survey.name, "terms": asked.survey.terms}
        return {"culture": culture, "survey": survey, "questions": questions}

    @api.post("/v1/education/quiz")
    async def guess(body: QuizBody, request: Request) -> dict[str, Any]:
        """How a culture's people really answered a question, and how near the guess came."""
        return _marked(answers.of(*_allowed(service, request, body.culture)).known, body)

    @api.post("/v1/education/exam")
    async def exam(body: ExamBody, request: Request) -> dict[str, Any]:
        """How near all guesses came, beside one who takes every answer for equally common."""
        known = answers.of(*_allowed(service, request, body.culture)).known
        twice = len({g.question for g in body.guesses}) < len(body.guesses)
        if twice:
            raise Refusal(400, "guesses: a question stands twice; give one guess each", param="guesses")
        marked = [_marked(known, g) for g in body.guesses]
        scores = [m["score"] for m in marked]
        uniform = [m["uniform_score"] for m in marked]
        return {
            "culture": body.culture,
            "answered": len(marked),
            "questions": len(known),
            "score": sum(scores) / len(scores),
            "uniform_score": sum(uniform) / len(uniform),
            "marked": marked,
        }


@dataclass(frozen=True)
class _Asked:
    """What a culture's people were asked."""

    survey: Source
    known: Mapping[str, tuple[Item, tuple[float, ...]]]
    """Questions and the shares of their options, by id."""


class _Answers:
    """The distributions of all cultures."""

    def __init__(self, service: Service, items: Sequence[Item]) -> None:
        self._asked: dict[str, _Asked] = {}
        for model in service.models:
            if model.culture:
                self._asked.setdefault(model.culture, _asked(service, model, items))

    def of(self, card: ModelCard, allowed: Sequence[ModelCard]) -> _Asked:
        """A model's culture's; one that has none is told those of the models that are `allowed`."""
        if card.culture not in self._asked:
            known = ", ".join(other.culture for other in allowed if other.culture in self._asked) or "none"
            raise UnknownModel(f"culture: {card.id!r} has no survey here; known: {known}")
        return self._asked[card.culture]


def _asked(service: Service, model: ModelSpec, items: Sequence[Item]) -> _Asked:
    """By the survey of the model's run, or else by the shipped one; there may be no questions in that."""
    origin = service.origins.get(model.adapter or "")
    survey = (origin and origin.survey) or WVS7
    countries = next((culture.countries for culture in service.cultures if culture.id == model.culture), ())
    known = {}
    if survey.id == WVS7.id:  # a run may have used a part of the shipped questions
        pairs = [(item, pooled(item, countries)) for item in items]
        known = {item.id: (item, found.shares) for item, found in pairs if found is not None}
    for seed in origin.seeds if origin else ():
        item = Item(seed.question_id, seed.topic, seed.question, seed.options, {})
        known[seed.question_id] = item, seed.distribution
    return _Asked(survey, known)


def _allowed(service: Service, request: Request, culture: str) -> tuple[ModelCard, Sequence[ModelCard]]:
    """The model that speaks for a culture, and all that this key may ask."""
    router = service.router(request.state.call.key)
    return router.of_culture(culture), router.cards


def _marked(known: Mapping[str, tuple[Item, tuple[float, ...]]], guess: Guess) -> dict[str, Any]:
    """A guess beside the real answers; the score is 1 less the earth mover's distance, as in the evaluation."""
    if guess.question not in known:
        raise BadRequest(f"question: {guess.question[:100]!r} was not asked; GET /v1/education/quiz lists them")
    item, real = known[guess.question]
    guessed = _shares(guess, len(real))
    commonest = max(range(len(real)), key=lambda k: real[k])
    return {
        "question": item.id,
        "options": list(item.options),
        "distribution": list(real),
        "commonest": commonest,
        "right": max(range(len(real)), key=lambda k: guessed[k]) == commonest,
        "score": 1 - emd(guessed, real),
        "uniform_score": 1 - emd([1 / len(real)] * len(real), real),
    }


def _shares(guess: Guess, options: int) -> list[float]:
    if (guess.option is None) == (guess.shares is None):
        raise BadRequest("option: give either it or shares")
    if guess.shares is not None:
        given, total = len(guess.shares), sum(guess.shares)
        if given != options or abs(total - 1) > _SUM:
            raise BadRequest(f"shares: must be {options} numbers that make up 1, got {given} that make up {total:.3g}")
        return [share / total for share in guess.shares]
    assert guess.option is not None
    if not 0 <= guess.option < options:
        raise BadRequest(f"option: must be between 0 and {options - 1}, got {guess.option}")
    return [float(k == guess.option) for k in range(options)]
