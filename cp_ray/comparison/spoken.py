"""Evaluations of whole answers: open questions with judges, and lessons."""

from collections.abc import Collection

from cp_ray.comparison.evaluated import Evaluated, manifest_of
from cp_ray.comparison.held import OVER_ITEMS, not_compared, section
from cp_ray.evals.bias import OpenAnswer
from cp_ray.evals.judge import Judgement
from cp_ray.evals.learning import Lesson
from cp_ray.evals.results.sections import Section
from cp_ray.evals.spoken_differences import bias_differences, learning_differences, unchanged, win_rate_differences
from cp_ray.records import Item

__all__ = ["learning", "open_answers"]


def open_answers(first: Evaluated, second: Evaluated) -> Section:
    """Refusals, counts of words, and win rates of pairs that the same judge has judged, on the same questions."""
    runs = (first, second)
    asked = [{i.id: i.messages for i in run.rows("open_scores", "open_items", Item)} for run in runs]
    same = {id for id, messages in asked[0].items() if asked[1].get(id) == messages}
    told = [run.rows("open_scores", "open_answers", OpenAnswer) for run in runs]
    judged = [run.rows("open_scores", "open_judgements", Judgement) for run in runs]
    rates = win_rate_differences(judged[0], judged[1], same)
    return section(
        "Open answers",
        {
            "Pairwise judgements: (wins - losses) / pairs (higher is better)": rates,
            "Counts of words": bias_differences(told[0], told[1], same),
        },
        (
            f"{OVER_ITEMS} Sentiment and words are counted where neither run's answer refuses.",
            *([_changes(told[0], told[1], same)] if rates else []),
            "Nobody has judged one run's answers against the other's. Whether judges agree is no property of a run.",
        ),
    )


def learning(first: Evaluated, second: Evaluated) -> Section:
    """Gains of the same learners."""
    title, runs = "Learning from a talk", (first, second)
    players = [_learners(run) for run in runs]
    if players[0] != players[1]:
        return not_compared(title, "their learners are not played by the same model in the same way")
    held = [run.rows("learning_scores", "exam_after", Lesson) for run in runs]
    found = learning_differences(held[0], held[1])
    notes = (
        "A learner is compared with itself, on the exam's questions that it answered in both runs. "
        "p is of a paired permutation test over the learners, corrected for the number of comparisons (Holm).",
    )
    return section(title, {"Fall of the exam's distance to the people's answers (higher is better)": found}, notes)


def _changes(first: list[OpenAnswer], second: list[OpenAnswer], same: Collection[str]) -> str:
    counts = unchanged(first, second, same).items()
    told = "; ".join(f"{model} {equal} of {n}" for model, (equal, n) in counts)
    return (
        f"A win rate is of two models, and its difference is one's own where the other said the same in both runs. "
        f"Answers that are word for word the same: {told}."
    )


def _learners(run: Evaluated) -> list[object]:
    """Who plays them, and how; the same model may have been at another address."""
    exams = [folder for name, folder in run.sources("learning_scores").items() if name.startswith("exam_after.")]
    configs = [{**manifest_of(folder).config, "url": ""} for folder in exams]
    return [config for k, config in enumerate(configs) if config not in configs[:k]]
