"""Evaluations in which models choose among options or read texts."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

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
    """Held-out distances, question by question, of those that were put alike."""
    title, runs = "Alignment with the survey", (first, second)
    put = [run.put() for run in runs]
    rows = [[q for q in run.questions() if q.split == "heldout" and q.model not in (HUMAN, *NULLS)] for run in runs]
    asked = [{(q.culture, q.question_id) for q in own} for own in rows]
    every = asked[0] | asked[1]
    same = {pair for pair in asked[0] & asked[1] if pair in put[0] and put[0][pair] == put[1].get(pair)}
    if not same:
        return not_compared(
            title, "no held-out question has the same words, options, wordings and people's answers in both; evaluate "
            "both with the same --survey and --wordings",
        )  # fmt: skip
    sides = [[q for q in own if (q.culture, q.question_id) in same] for own in rows]
    others = (
        f"Left out: {len(every) - len(same)} of {len(every)} questions to a culture, which only one run has, or whose "
        "words, options, wordings or people's answers differ.",
    )
    notes = (OVER_ITEMS, *(others if same != every else ()))
    return section(title, {f"{title} (lower is better)": survey_differences(sides[0], sides[1])}, notes)


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
    """Nats a token of the same texts, in the same tokens."""
    title, runs = "Forgetting", (first, second)
    texts: list[list[str]] = [_config(run, "forgetting_scores")["texts"] for run in runs]
    rows = [
        [replace(row, text=own[int(row.text)]) for row in (run.steps["forgetting_scores"] / "texts").read(TextLoss)]
        for own, run in zip(texts, runs, strict=True)
    ]
    tokens = [{(row.model, row.text): row.tokens for row in own} for own in rows]
    if any(n != tokens[1].get(place, n) for place, n in tokens[0].items()):
        return not_compared(
            title, "the same texts have other numbers of tokens, so that nats a token are of different tokens; compare "
            "runs whose bases have the same tokenizer",
        )  # fmt: skip
    lost = {row.model for own in rows for row in own if not math.isfinite(row.nats)}
    counting = [[row for row in own if row.model not in lost] for own in rows]
    told = [_by_model(own, lambda row: (row.model, row.text, row.nats / row.tokens)) for own in counting]
    found = item_differences("nats a token of neutral text", told[0], told[1], (-math.inf, math.inf))
    alone, every = set(texts[0]) ^ set(texts[1]), set(texts[0]) | set(texts[1])
    others = [f"Left out: {len(alone)} of {len(every)} texts, which only one run has."] if alone else []
    if lost and not found:
        return not_compared(title, f"the numbers of {', '.join(sorted(lost))} are not finite")
    if lost:
        others.append(f"Left out: {', '.join(sorted(lost))}, whose numbers are not finite.")
    return section(title, {f"{title} (lower is better)": corrected(found)}, (OVER_ITEMS, *others))


def benchmarks(first: Evaluated, second: Evaluated) -> Section:
    """Shares of items solved, by area, of benchmarks with the same data and prompts."""
    title, runs = "Benchmarks", (first, second)
    configs = [_config(run, "benchmarks_scores") for run in runs]
    versions = [config["harness"] for config in configs]
    if versions[0] != versions[1]:
        return not_compared(
            title, f"lm-evaluation-harness is {versions[0]} in the first run and {versions[1]} in the second, and may "
            "ask otherwise; evaluate both with the same",
        )  # fmt: skip
    files: list[dict[str, str]] = [dict(config["files"]) for config in configs]
    same = {name for name, content in files[0].items() if files[1].get(name) == content}
    if not same:
        return not_compared(title, "no benchmark has the same data in both; evaluate both with the same files")
    rows = [
        [row for row in (run.steps["benchmarks_scores"] / "solved").read(Solved) if row.benchmark in same]
        for run in runs
    ]
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
    alone = [name for name in {**files[0], **files[1]} if name not in same]
    others = (f"Left out: {', '.join(alone)}, which only one run has, or whose data differ.",) if alone else ()
    return section(title, {f"{title} (higher is better)": corrected(found)}, (OVER_ITEMS, *others))


def _config(run: Evaluated, scores: str) -> Mapping[str, Any]:
    """What an evaluation was made of, beside the trainings that it looks at."""
    found: Mapping[str, Any] = manifest_of(run.steps[scores]).config["config"]
    return found


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
