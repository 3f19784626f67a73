"""The sections on Hofstede's dimensions, forgetting, open answers and learning."""

from collections.abc import Sequence

from cp_ray.evals import charts
from cp_ray.evals.bias import LOST
from cp_ray.evals.bias import TASK as BIAS
from cp_ray.evals.compare import holm
from cp_ray.evals.hofstede.formulas import DIMENSIONS
from cp_ray.evals.hofstede.scores import ALL, CONSTANT, OWN, RANDOM, Truth
from cp_ray.evals.results.sections import Figure, Section, Table, Way, ordered, shown, ways_notes
from cp_ray.records import Score

__all__ = ["forgetting_section", "hofstede_section", "learning_section", "open_section"]


def hofstede_section(scores: Sequence[Score], truth: Sequence[Truth], ways: Sequence[Way] = ()) -> Section:
    """Distances by culture, dimensions beside the published ones, correlations over the cultures."""
    cultures = [t.culture for t in truth]
    models = ordered((s.model for s in scores), (CONSTANT, RANDOM))
    by = {(s.model, s.culture, s.metric): s for s in scores}
    distances = Table(
        "Distance to the published scores, in points a dimension (0 is a perfect match)",
        ("model", *cultures),
        tuple((m, *(shown(by.get((m, c, "distance")), 1) for c in cultures)) for m in models),
    )
    dimensions = [_dimensions(culture, t, by, models) for culture, t in zip(cultures, truth, strict=True)]
    measures = [f"{kind}_{d}" for kind in ("pearson", "spearman") for d in DIMENSIONS]
    rows = [(m, *(shown(by.get((m, ALL, name)), 2) for name in measures)) for m in models]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    correlations = [Table("Correlation with the published scores over the cultures", ("model", *measures), tuple(rows))]
    figures = [
        Figure(f"{t.culture}: published, untrained base, own adapter", radar)
        for t in truth
        if (radar := _radar(t, by)) is not None
    ]
    return Section(
        "Hofstede's dimensions (VSM 2013)",
        tuple(_sentence(c, by) for c in cultures if (OWN, c, "distance") in by),
        (distances, *dimensions, *(correlations if rows else ())),
        tuple(figures),
        (
            "Each culture's constants are fitted on the other cultures, so distances cannot be compared with the "
            "literature's, which has a constant of 50 for all. constant answers 3 to everything, random by lot, "
            "own is each culture's own model. Brackets are 95 % intervals over the simulated people (studentised "
            "bootstrap); correlations over so few cultures have none. The manual's warning holds: the instrument "
            "compares groups of people.",
            *(
                ["With two cultures there is one difference between them, so that both have the same distance."]
                * (len(cultures) == 2)
            ),
            *ways_notes(ways),
        ),
    )


def _dimensions(culture: str, truth: Truth, by: dict[tuple[str, str, str], Score], models: Sequence[str]) -> Table:
    published = ("published", *("–" if s is None else f"{s:.0f}" for s in truth.scores))
    rows = [(m, *(shown(by.get((m, culture, d)), 0) for d in DIMENSIONS)) for m in models]
    heads = ("model", *(d.upper() for d in DIMENSIONS))
    return Table(f"{culture}: dimensions", heads, (published, *(r for r in rows if set(r[1:]) != {"–"})))


def _radar(truth: Truth, by: dict[tuple[str, str, str], Score]) -> str | None:
    lines: dict[str, list[float]] = {}
    for name in ("base", OWN):
        told = [by.get((name, truth.culture, d)) for d in DIMENSIONS]
        if all(told):
            lines[name] = [s.value for s in told if s]
    if any(s is None for s in truth.scores) or not lines:
        return None
    lines = {"published": [s for s in truth.scores if s is not None], **lines}
    return charts.radar_chart([d.upper() for d in DIMENSIONS], lines, f"Dimensions of {truth.culture}")


def _sentence(culture: str, by: dict[tuple[str, str, str], Score]) -> str:
    own, constant = by[OWN, culture, "distance"], by[CONSTANT, culture, "distance"]
    base = by.get(("base", culture, "distance"))
    beside = f", the untrained base {base.value:.1f}" if base else ""
    return (
        f"{culture}: its model is {own.value:.1f} points a dimension from the published scores{beside}, "
        f"an answerer that always says 3 is {constant.value:.1f} from them."
    )


def forgetting_section(scores: Sequence[Score]) -> Section:
    """Perplexity of neutral text and agreement with the base."""
    by = {(s.model, s.metric): s for s in scores}
    models = ordered(s.model for s in scores)
    rows = tuple((m, shown(by.get((m, "perplexity")), 2), shown(by.get((m, "agreement")), 3)) for m in models)
    base = by[models[0], "perplexity"].value
    said = [
        f"{m}: perplexity of neutral text {by[m, 'perplexity'].value / base - 1:+.1%} against the untrained base, the "
        f"same next token in {by[m, 'agreement'].value:.1%} of all places."
        for m in models[1:]
    ]
    return Section(
        "Forgetting",
        tuple(said),
        (Table("Neutral text, twenty paragraphs", ("model", "perplexity", "agreement with the base"), rows),),
        notes=("Brackets are 95 % intervals over texts. All models read the same texts.",),
    )


def open_section(scores: Sequence[Score]) -> Section:
    """Win rates, agreement of the judges, and counts of biases."""
    bias = [s for s in scores if s.task == BIAS]
    cultures = list(dict.fromkeys(s.culture for s in bias))
    tables = [
        Table(
            title,
            ("model", *cultures),
            tuple(
                (m, *(shown(by.get((m, c))) for c in cultures))
                for by in [{(s.model, s.culture): s for s in bias if s.metric == metric}]
                for m in dict.fromkeys(s.model for s in bias)
            ),
        )
        for metric, title in (
            ("refusals", "Share of refusals"),
            ("sentiment", "Sentiment of words (-1: all bad, 1: all good)"),
            ("kinds_per_100_words", "Words that make a people one kind of person, per 100"),
        )
    ]
    rates = [s for s in scores if s.metric.startswith("win_rate")]
    told = [s for s in scores if s.metric in ("agreement", "kappa")]
    if rates:
        rows = tuple((s.model, s.metric.removeprefix("win_rate "), s.culture, shown(s), str(s.n)) for s in rates)
        heads = ("model", "against, by", "culture", "(wins - losses) / pairs", "pairs")
        tables.insert(0, Table("Pairwise judgements, both orders asked", heads, rows))
    if told:
        values = tuple((s.model, s.metric, f"{s.value:.3f}", str(s.n)) for s in told)
        tables.insert(1, Table("Do the judges agree?", ("judges", "measure", "value", "pairs"), values))
    chance = {(s.model, s.culture, s.metric): s.value for s in scores}
    # A rate that was never tested, as in an older folder, tells nobody apart.
    ps = holm([chance.get((s.model, s.culture, s.metric.replace("win_rate", "p", 1)), 1.0) for s in rates])
    said = [
        f"{s.culture}: {s.model} {_won(s, p)} {s.metric.removeprefix('win_rate against ')} "
        f"({s.value:+.2f}, p = {p:.3f})."
        for s, p in zip(rates, ps, strict=True)
    ]
    return Section(
        "Open answers", tuple(said), tuple(tables),
        notes=(
            "Biases are counts of English words: they say where to read on, and judge no text.",
            *(["p: of a paired permutation test over the pairs, corrected for their number (Holm)."] * bool(rates)),
            *(
                f"{s.model}, {s.culture}: {round(s.value * s.n)} of {s.n} calls came to no answer, and count nowhere."
                for s in bias
                if s.metric == LOST
            ),
        ),
    )  # fmt: skip


def _won(score: Score, p: float) -> str:
    return "is not told apart from" if p > 0.05 else "wins against" if score.value > 0 else "loses against"


def learning_section(scores: Sequence[Score]) -> Section:
    """Learning gains by tutor and culture."""
    rows = tuple(
        (
            s.model,
            s.culture,
            "what the exam asks" if s.metric == "gain_asked" else "other questions",
            shown(s),
            str(s.n),
        )
        for s in scores
    )
    heads = ("tutor", "culture", "talk about", "gain", "learners")
    return Section(
        "Learning from a talk",
        (),
        (Table("Fall of the exam's distance to the people's answers, after a talk", heads, rows),),
        notes=("The learners are simulated; how satisfied somebody is with a talk is asked of people only.",),
    )
