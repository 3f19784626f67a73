"""The section on BBH and GSM8K."""

from collections.abc import Sequence

from cp_ray.evals.benchmarks.files import BBH, GSM8K, TASKS
from cp_ray.evals.benchmarks.scores import Solved, lost
from cp_ray.evals.results.sections import Section, Table, ordered, shown
from cp_ray.records import Score

__all__ = ["benchmarks_section"]

_NAMES = {GSM8K: "GSM8K", BBH: "BBH"}


def benchmarks_section(scores: Sequence[Score], rows: Sequence[Solved]) -> Section:
    """Shares of items solved, each adapter beside the base, and BBH by task."""
    by = {(s.model, s.metric): s for s in scores}
    models = ordered(model for model, _ in by)
    areas = [area for area in _NAMES if any(area == metric for _, metric in by)]
    heads = ("model", *(f"{_NAMES[a]} ({max(s.n for (_, m), s in by.items() if m == a)} items)" for a in areas))
    tables = [
        Table("Share of items solved", heads, tuple((m, *(shown(by.get((m, a)), 3) for a in areas)) for m in models))
    ]
    tasks = list(dict.fromkeys(metric for _, metric in by if metric.startswith(f"{BBH}/")))
    if tasks:
        lines = tuple((t.partition("/")[2], *(shown(by.get((m, t)), 2) for m in models)) for t in tasks)
        tables.append(Table("BBH by task", ("task", *models), lines))
    said = [
        f"{model}: {_NAMES[area]} {by[model, area].value:.3f}, the untrained base {by['base', area].value:.3f}: "
        f"{_told(test.difference, test.p)} (p = {test.p:.3f})."
        for (model, area), test in lost(rows).items()
    ]
    notes = [
        "By lm-evaluation-harness, with its prompts (GSM8K with five examples, BBH without) in the models' own chat "
        "template; an answer's number or choice is looked for anywhere in it. Brackets are 95 % intervals over items; "
        "p is of a paired permutation test over items, corrected for the number of comparisons (Holm)."
    ]
    if tasks and len(tasks) < len(TASKS):
        notes.append(f"BBH is {len(tasks)} of its {len(TASKS)} tasks: the others are not in the folder.")
    return Section("Benchmarks: what training has cost (BBH, GSM8K)", tuple(said), tuple(tables), notes=tuple(notes))


def _told(difference: float, p: float) -> str:
    if p > 0.05:
        return "not told apart"
    return "better" if difference > 0 else "worse"
