"""Evaluations in which models choose among options or read texts."""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from cp_ray.comparison.evaluated import Evaluated, manifest_of
from cp_ray.comparison.held import OVER_ITEMS, left_out, not_compared, section
from cp_ray.evals.answer import came_to_none
from cp_ray.evals.benchmarks.scores import Solved
from cp_ray.evals.differences import corrected, item_differences, moderation_differences, survey_differences
from cp_ray.evals.hofstede.differences import correlation_differences, distance_differences
from cp_ray.evals.hofstede.scores import Truth, respondents
from cp_ray.evals.nulls import HUMAN, NULLS
from cp_ray.evals.results.sections import Section
from cp_ray.records import Item, Prediction, TextLoss

__all__ = ["benchmarks", "forgetting", "hofstede", "moderation", "survey"]

Row = TypeVar("Row")


def survey(first: Evaluated, second: Evaluated) -> Section:
    """Held-out distances, question by question."""
    known = (HUMAN, *NULLS)
    sides = [[q for q in run.questions() if q.model not in known] for run in (first, second)]
    title = "Alignment with the survey"
    return section(title, {f"{title} (lower is better)": survey_differences(sides[0], sides[1])})


def moderation(first: Evaluated, second: Evaluated) -> Section:
    """Macro-F1 on the same test sets."""
    title, runs = "Content moderation", (first, second)
    asked = [run.rows("moderation_scores", "moderation_items", Item) for run in runs]
    if _asked(asked[0]) != _asked(asked[1]):
        return not_compared(title, "their test sets are not the same; evaluate both with the same files and options")
    told = [run.rows("moderation_scores", "moderation_choices", Prediction) for run in runs]
    lost = [sum(map(came_to_none, rows)) for rows in told]
    found = moderation_differences(asked[0], told[0], told[1])
    return section(title, {f"{title} (higher is better)": found}, (OVER_ITEMS, *left_out(lost[0], lost[1])))


def hofstede(first: Evaluated, second: Evaluated) -> Section:
    """Distances and correlations of dimensions, over the same simulated people in the same cultures."""
    title, runs = "Hofstede's dimensions (VSM 2013)", (first, second)
    truths = [_truth(run) for run in runs]
    asked = [_by_culture(run.rows("hofstede_scores", "hofstede_items", Item)) for run in runs]
    same = [c for c in asked[0] if asked[0][c] == asked[1].get(c) and truths[0].get(c) == truths[1].get(c)]
    if len(same) < 2:
        return not_compared(
            title, "no two cultures have the same people, items and published scores in both; evaluate both with the "
            "same --respondents, --seed, --hofstede-items and --hofstede",
        )  # fmt: skip
    truth = [truths[0][c] for c in same]
    told = [respondents(run.rows("hofstede_scores", "hofstede_choices", Prediction), same) for run in runs]
    return section(
        title,
        {
            "Distance to the published scores (lower is better)": distance_differences(told[0], told[1], truth),
            "Correlation with them over the cultures (higher is better)": correlation_differences(
                told[0], told[1], truth
            ),
        },
        (
            f"Both runs' figures are worked out anew on {', '.join(same)}: constants are fitted on the other cultures.",
            "Brackets are 95 % intervals over the simulated people, who are the same in both runs, and p is of a "
            "permutation test over what each of them adds to the difference, corrected for the number of comparisons "
            "(Holm). A correlation's say nothing of what other cultures would have brought; own is each culture's own "
            "adapter. Spearman's rho is not compared.",
        ),
    )


def forgetting(first: Evaluated, second: Evaluated) -> Section:
    """Nats a token of the same texts."""
    rows = [(run.steps["forgetting_scores"] / "texts").read(TextLoss) for run in (first, second)]
    told = [_by_model(own, lambda row: (row.model, row.text, row.nats / row.tokens)) for own in rows]
    found = item_differences("nats a token of neutral text", told[0], told[1], (-math.inf, math.inf))
    return section("Forgetting", {"Forgetting (lower is better)": corrected(found)})


def benchmarks(first: Evaluated, second: Evaluated) -> Section:
    """Shares of items solved, by area."""
    rows = [(run.steps["benchmarks_scores"] / "solved").read(Solved) for run in (first, second)]
    found = []
    for area in dict.fromkeys(row.area for row in rows[0]):
        told = [
            _by_model(
                (row for row in own if row.area == area),
                lambda row: (row.model, f"{row.benchmark}/{row.item}", float(row.right)),
            )
            for own in rows
        ]
        found += item_differences(f"share of {area} solved", told[0], told[1], (-1.0, 1.0))
    return section("Benchmarks", {"Benchmarks (higher is better)": corrected(found)})


def _asked(items: Iterable[Item]) -> dict[str, object]:
    return {item.id: item.messages for item in items}


def _by_culture(items: Iterable[Item]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for item in items:
        found.setdefault(item.culture, {})[item.id] = item.messages
    return found


def _truth(run: Evaluated) -> dict[str, Truth]:
    """The published scores that a run was held against, by culture."""
    told = manifest_of(run.steps["hofstede_scores"]).config["truth"]
    return {one["culture"]: Truth(one["culture"], tuple(one["scores"])) for one in told}


def _by_model(rows: Iterable[Row], told: Callable[[Row], tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Of each model, each item's value."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        model, item, value = told(row)
        found.setdefault(model, {})[item] = value
    return found
