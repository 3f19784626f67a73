"""Each held-out question of the survey, culture by culture."""

from collections.abc import Mapping, Sequence

from cp_ray.evals.nulls import BASE, BLIND, HUMAN
from cp_ray.evals.results.sections import Table
from cp_ray.records import QuestionScore, Seed

__all__ = ["question_tables"]


def question_tables(questions: Sequence[QuestionScore], seeds: Sequence[Seed]) -> tuple[Table, ...]:
    """Of each culture: the earth mover's distance on every held-out question, from 0 to 1, and its mean below.

    Of the culture's own adapter, the base, one answerer that knows nothing, and one half of the people against the
    other. The answerer is the same for all questions: the nearest by its mean over them, `modal` left out.

    Args:
        questions: all distances.
        seeds: the questions' words and their order.
    """
    words = {seed.question_id: seed.question for seed in seeds if seed.split == "heldout"}
    held: dict[str, dict[str, dict[str, QuestionScore]]] = {}
    for q in questions:
        if q.split == "heldout":
            held.setdefault(q.culture, {}).setdefault(q.model, {})[q.question_id] = q
    return tuple(_table(culture, by_model, words) for culture, by_model in held.items())


def _table(culture: str, by_model: Mapping[str, Mapping[str, QuestionScore]], words: Mapping[str, str]) -> Table:
    null = min((m for m in BLIND if m in by_model), key=lambda m: _mean(by_model[m]))
    columns = [by_model.get(model, {}) for model in (culture, BASE, null, HUMAN)]
    topics = {id: q.topic for own in by_model.values() for id, q in own.items()}
    asked = [id for id in words if id in topics]
    rows = [(words[id], topics[id], *(f"{c[id].emd:.3f}" if id in c else "–" for c in columns)) for id in asked]
    means = ("mean", "", *(f"{_mean(c):.3f}" if c else "–" for c in columns))
    heads = ("question", "topic", "own adapter", BASE, null, HUMAN)
    return Table(f"{culture}: distance on each held-out question", heads, (*rows, means))


def _mean(own: Mapping[str, QuestionScore]) -> float:
    return sum(q.emd for q in own.values()) / len(own)
