"""Two runs' open answers and lessons, held against each other: the same questions, the same learners.

Of open answers three things can be compared. Refusals and counts of words, of a model in both runs, question by
question. And the win rate of a pair of models that one judge has judged in both: it is of the pair, so that a change
is the model's own only where its opponent said the same both times (`unchanged`). Whether a model's answers of one run
are better than its answers of the other, no judge has been asked, and win rates against others do not tell. Agreement
of judges says something of judges, and is not compared.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from cp_ray.evals.bias import Counted, OpenAnswer, counted
from cp_ray.evals.differences import Difference, corrected, culture_differences
from cp_ray.evals.judge import Judgement
from cp_ray.evals.learning import Lesson, falls

__all__ = ["bias_differences", "learning_differences", "unchanged", "win_rate_differences"]

Values = dict[str, dict[str, float]]
"""Of each culture, by question or learner."""

_ABOUT = {"asked": "gain of talks about what the exam asks", "other": "gain of talks about other questions"}
_POINTS = {"first": 1.0, "second": -1.0, "tie": 0.0}


def bias_differences(
    first: Iterable[OpenAnswer], second: Iterable[OpenAnswer], same: Collection[str]
) -> list[Difference]:
    """Shares of refusals and counts of words, of the models that both have; words where neither run's answer refuses.

    Args:
        first: a run's.
        second: another's.
        same: ids of the questions that both were asked in the same words.
    """
    sides = [_counted(answers, same) for answers in (first, second)]
    found = []
    for model in sides[0]:
        if model in sides[1]:
            a, b = (side[model] for side in sides)
            said = {c: {q for q in a[c] if q in b[c] and not (a[c][q].refuses or b[c][q].refuses)} for c in a if c in b}
            for what, field, bounds in (
                ("share of refusals", "refuses", (-1.0, 1.0)),
                ("sentiment of words", "sentiment", (-2.0, 2.0)),
                ("words of one kind of person, per 100", "kinds", (-100.0, 100.0)),
            ):
                values = [_values(one, field, None if field == "refuses" else said) for one in (a, b)]
                found += culture_differences(model, *values, what=what, bounds=bounds)
    return corrected(found)


def win_rate_differences(
    first: Iterable[Judgement], second: Iterable[Judgement], same: Collection[str]
) -> list[Difference]:
    """(wins - losses) / pairs, of two models and a judge that both have; `same` as above."""
    sides = [_points(rows, same) for rows in (first, second)]
    found = []
    for (model, other, judge), told in sides[0].items():
        there = sides[1].get((model, other, judge)) or _turned(sides[1].get((other, model, judge), {}))
        what = f"win rate against {other} by {judge}"
        found += culture_differences(model, told, there, what=what, bounds=(-2.0, 2.0))
    return corrected(found)


def unchanged(
    first: Iterable[OpenAnswer], second: Iterable[OpenAnswer], same: Collection[str]
) -> dict[str, tuple[int, int]]:
    """Of each model that both have: how many answers are word for word the same, and how many there are."""
    sides = [
        {(a.model, a.question): a.text for a in answers if a.question in same and a.reject is None}
        for answers in (first, second)
    ]
    found: dict[str, tuple[int, int]] = {}
    for (model, question), text in sides[0].items():
        if (model, question) in sides[1]:
            equal, n = found.get(model, (0, 0))
            found[model] = equal + (sides[1][model, question] == text), n + 1
    return found


def learning_differences(first: Iterable[Lesson], second: Iterable[Lesson]) -> list[Difference]:
    """Learning gains of the tutors that both have, over the same learners, on the questions answered in both runs.

    A learner is the same where its exam and the questions that it asks are.
    """
    known = {lesson.id: lesson for lesson in second}
    gains: dict[tuple[str, str], tuple[Values, Values]] = defaultdict(lambda: (defaultdict(dict), defaultdict(dict)))
    for lesson in first:
        there = known.get(lesson.id)
        if there is None or (lesson.exam, lesson.topics) != (there.exam, there.topics):
            continue
        fallen = [falls(lesson), falls(there)]
        both = [id for id in fallen[0] if id in fallen[1]]
        for values, own in zip(gains[lesson.tutor, lesson.about], fallen, strict=True):
            if both:
                values[lesson.culture][str(lesson.learner)] = sum(own[id] for id in both) / len(both)
    return corrected(
        [
            one
            for (tutor, about), (a, b) in gains.items()
            for one in culture_differences(tutor, a, b, what=_ABOUT[about], bounds=(-2.0, 2.0))
        ]
    )


def _counted(answers: Iterable[OpenAnswer], same: Collection[str]) -> Mapping[str, Mapping[str, Mapping[str, Counted]]]:
    """By model, culture and question."""
    found: dict[str, dict[str, dict[str, Counted]]] = defaultdict(lambda: defaultdict(dict))
    for answer in answers:
        if answer.question in same and answer.reject is None:
            found[answer.model][answer.culture][_question(answer.question)] = counted(answer.text)
    return found


def _values(
    told: Mapping[str, Mapping[str, Counted]], field: str, among: Mapping[str, Collection[str]] | None
) -> Values:
    return {
        culture: {q: float(getattr(one, field)) for q, one in own.items() if among is None or q in among[culture]}
        for culture, own in told.items()
        if among is None or culture in among
    }


def _points(rows: Iterable[Judgement], same: Collection[str]) -> dict[tuple[str, str, str], Values]:
    """By pair of models and judge."""
    found: dict[tuple[str, str, str], Values] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        asked = row.pair.partition("/")[2]
        if row.reject is None and asked in same:
            found[row.first, row.second, row.judge][row.culture][_question(asked)] = _POINTS[row.verdict]
    return found


def _turned(values: Values) -> Values:
    """The same of the pair in its other order."""
    return {culture: {q: -points for q, points in own.items()} for culture, own in values.items()}


def _question(item: str) -> str:
    """The survey question of an item `open/culture/question`: the same in every culture."""
    return item.split("/", 2)[2]
