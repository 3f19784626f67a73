"""The section on content moderation."""

from collections.abc import Sequence

from cp_ray.evals import charts
from cp_ray.evals.moderation.scores import AVERAGE, BASELINES
from cp_ray.evals.moderation.state import SetState
from cp_ray.evals.nulls import BASE
from cp_ray.evals.results.sections import Figure, Section, Table, Way, ordered, shown, ways_notes
from cp_ray.records import Score

__all__ = ["moderation_section"]


def moderation_section(scores: Sequence[Score], states: Sequence[SetState], ways: Sequence[Way] = ()) -> Section:
    """Macro-F1 by culture and by set, beside answerers that do not read the text; what was left out and why."""
    means = [s for s in scores if s.task == AVERAGE]
    cultures = list(dict.fromkeys(s.culture for s in scores))
    by = {(s.model, s.culture): s for s in means}
    models = ordered((s.model for s in scores), BASELINES)
    averages = Table(
        "Mean macro-F1 by culture, over the sets that count",
        ("model", *(f"{c} ({_sets(means, c)})" for c in cultures)),
        tuple((model, *(shown(by.get((model, c))) for c in cultures)) for model in models),
    )
    figures = [
        Figure(
            f"{culture}: mean macro-F1, highest first",
            charts.distance_chart(
                sorted((s for s in means if s.culture == culture), key=lambda s: -s.value), f"Macro-F1 of {culture}"
            ),
        )
        for culture in cultures
        if any(s.culture == culture for s in means)
    ]
    lost = [s for s in scores if s.metric == "unparsable" and s.model not in BASELINES]
    tables = [averages, _by_set(scores, states, "macro_f1", "Macro-F1 by set")]
    if any(s.value for s in lost):
        tables.append(_by_set(scores, states, "unparsable", "Share of answers that name no label"))
    left_out = [f"{s.task} is in no average: {s.left_out}." for s in states if s.left_out]
    return Section(
        "Content moderation",
        tuple(_sentences(means, cultures)),
        (*tables, _sets_table(states)),
        tuple(figures),
        (
            "Macro-F1 over a set's own labels; an answer that names no label is a miss. Brackets are 95 % intervals "
            "over rows. An average's interval is over the rows of its sets, taken apart from each other.",
            "majority always says the commonest label, constant that nothing is wrong with the text, random any label.",
            *([] if any(s.value for s in lost) else ["Every answer names a label."]),
            *ways_notes(ways),
            *left_out,
        ),
    )


def _sets(means: Sequence[Score], culture: str) -> str:
    n = max((s.n for s in means if s.culture == culture), default=0)
    return f"{n} set{'' if n == 1 else 's'}"


def _by_set(scores: Sequence[Score], states: Sequence[SetState], metric: str, title: str) -> Table:
    by = {(s.model, s.task): s for s in scores if s.metric == metric and s.task != AVERAGE}
    models = ordered((m for m, _ in by), BASELINES)
    if metric == "unparsable":
        models = [m for m in models if m not in BASELINES]
    rows = tuple(
        (f"{s.task}{' *' if s.left_out else ''}", str(s.used), *(shown(by.get((m, s.task)), 2) for m in models))
        for s in states
    )
    return Table(f"{title} (* in no average)", ("set", "rows", *models), rows)


def _sets_table(states: Sequence[SetState]) -> Table:
    return Table(
        "The sets as they were read",
        ("set", "lines", "used", "labels", "not used", "repeated texts", "under another label", "known defect"),
        tuple(
            (s.task, str(s.rows), str(s.used), s.labels, s.unused, str(s.repeated), str(s.conflicting), s.defect)
            for s in states
        ),
    )


def _sentences(means: Sequence[Score], cultures: Sequence[str]) -> list[str]:
    said = []
    for culture in cultures:
        own = {s.model: s for s in means if s.culture == culture}
        models = [s for m, s in own.items() if m not in BASELINES]
        blind = [own[m] for m in BASELINES if m in own]
        if not models or not blind:
            continue
        best, floor = max(models, key=lambda s: s.value), max(blind, key=lambda s: s.value)
        beats = "above" if best.low > floor.high else "not told apart from" if best.high > floor.low else "below"
        beside = ""
        if culture in own and BASE in own:
            beside = f" Its own adapter has {own[culture].value:.3f}, the untrained base {own[BASE].value:.3f}."
        said.append(
            f"{culture}: the best of the models is {best.model} with {best.value:.3f}, {beats} the best answerer that "
            f"does not read the text ({floor.model}, {floor.value:.3f}).{beside}"
        )
    return said
