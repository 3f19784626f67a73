"""The section on the survey."""

from collections.abc import Iterable, Sequence

from cp_ray.evals import charts
from cp_ray.evals.compare import holm, paired
from cp_ray.evals.nulls import BASE, HUMAN, NULLS, UNIFORM
from cp_ray.evals.results.questions import question_tables
from cp_ray.evals.results.sections import Figure, Section, Table, Way, ordered, shown, ways_notes
from cp_ray.records import QuestionScore, Score, Seed

__all__ = ["survey_section"]

_METRICS = (
    ("emd", "Earth mover's distance (0: as the people answer)"),
    ("jsd", "Jensen-Shannon distance"),
    ("skill_emd", "Skill (0: a uniform answerer, 1: one half of the people against the other)"),
    ("order_stability", "Stability when the options are listed from the other end (1: the same answer)"),
    ("wording_stability", "Stability under other words around the question (1: the same answer)"),
)


def survey_section(
    scores: Sequence[Score], questions: Sequence[QuestionScore], seeds: Sequence[Seed], ways: Sequence[Way] = ()
) -> Section:
    """Every model against every culture, on held-out questions and on trained ones, and question by question."""
    cultures = list(dict.fromkeys(s.culture for s in scores))
    tables = [
        _matrix(scores, cultures, task, metric, f"{title}, {told}")
        for task, told in (("survey_heldout", "held-out questions"), ("survey_train", "questions seen in training"))
        for metric, title in _METRICS
    ]
    heldout = [s for s in scores if (s.task, s.metric) == ("survey_heldout", "emd")]
    models = [m for m in _ordered((s.model for s in heldout), cultures) if m not in (HUMAN, *NULLS)]
    title = "Which model is near to whose answers: distance on held-out questions, the nearer the darker"
    matrix = charts.matrix_chart(heldout, models, cultures, title)
    figures = [Figure(title, matrix, wide=len(cultures) > 4)] if heldout else []
    figures += [
        Figure(
            f"{culture}: distance on held-out questions, nearest first",
            charts.distance_chart(
                sorted(_of(scores, "survey_heldout", "emd", culture), key=lambda s: s.value),
                f"Distance to the answers of {culture}",
            ),
        )
        for culture in cultures
    ]
    return Section(
        "Alignment with the survey",
        tuple(_sentences(scores, questions, cultures)),
        (*(t for t in tables if t.rows), *_topics(scores, cultures)),
        tuple(figures),
        (
            "Brackets are 95 % intervals over questions (studentised bootstrap); they say how far the figure would "
            "move with other questions of the kind.",
            f"{UNIFORM} gives every option the same probability, first and last always choose an end of the scale, "
            "modal always says what most of the people say and has seen their answers, others is the mean of the other "
            "cultures' people, scale the mean of a people's own answers to the training questions with the same "
            "options, human is one random half of the people against the other.",
            "Question by question there stands, of those that have not seen the people's answers, the one that is "
            "nearest to them on the mean of all questions.",
            *ways_notes(ways),
        ),
        question_tables(questions, seeds),
    )


def _ordered(models: Iterable[str], cultures: Sequence[str]) -> list[str]:
    """Adapters in the order of their cultures, so that their own cells make a diagonal."""
    names = list(dict.fromkeys(models))
    return ordered([*(c for c in cultures if c in names), *names])


def _of(scores: Sequence[Score], task: str, metric: str, culture: str) -> list[Score]:
    return [s for s in scores if (s.task, s.metric, s.culture) == (task, metric, culture)]


def _matrix(scores: Sequence[Score], cultures: Sequence[str], task: str, metric: str, title: str) -> Table:
    """The transfer matrix: rows of models, columns of cultures."""
    by = {(s.model, s.culture): s for s in scores if (s.task, s.metric) == (task, metric)}
    rows = [(model, *(shown(by.get((model, c))) for c in cultures)) for model in _ordered((m for m, _ in by), cultures)]
    n = sorted({s.n for s in by.values()})
    return Table(f"{title} ({' or '.join(map(str, n))} questions)", ("model", *cultures), tuple(rows))


def _topics(scores: Sequence[Score], cultures: Sequence[str]) -> list[Table]:
    """Of each culture, the distance by topic; without intervals, since a topic has few held-out questions."""
    tables = []
    for culture in cultures:
        some = [
            s for s in scores if s.culture == culture and s.metric == "emd" and s.task.startswith("survey_heldout/")
        ]
        by = {(s.model, s.task): s for s in some}
        topics = list(dict.fromkeys((s.task, s.n) for s in some))
        rows = [
            (model, *(f"{by[model, task].value:.3f}" if (model, task) in by else "–" for task, _ in topics))
            for model in _ordered((s.model for s in some), cultures)
        ]
        heads = ("model", *(f"{task.partition('/')[2]} ({n})" for task, n in topics))
        if rows:
            tables.append(Table(f"{culture}: earth mover's distance by topic, held-out questions", heads, tuple(rows)))
    return tables


def _sentences(scores: Sequence[Score], questions: Sequence[QuestionScore], cultures: Sequence[str]) -> list[str]:
    """Whether a culture's own adapter is nearer than each other model, by a paired test over its questions."""
    held: dict[tuple[str, str], dict[str, float]] = {}
    for q in questions:
        if q.split == "heldout":
            held.setdefault((q.culture, q.model), {})[q.question_id] = q.emd
    said = []
    for culture in cultures:
        own = held.get((culture, culture))
        if own is None:
            continue
        named = [m for c, m in held if c == culture and m not in (culture, HUMAN, *NULLS)] + [UNIFORM]
        rivals, tests = [], []
        for rival in named:
            other = held[culture, rival]
            shared = [id for id in own if id in other]
            if shared:  # an endpoint may have answered none of the same
                rivals.append(rival)
                tests.append(paired([own[id] for id in shared], [other[id] for id in shared]))
        corrected = holm([t.p for t in tests])
        by_verdict: dict[str, list[str]] = {}
        for rival, test, p in zip(rivals, tests, corrected, strict=True):
            shown = f"{rival} (by {test.difference:+.3f}, p = {p:.3f})"
            by_verdict.setdefault(_told(test.difference, p), []).append(shown)
        told = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in by_verdict.items())
        mean = sum(own.values()) / len(own)
        said.append(
            f"{culture}: on {len(own)} questions that it never saw, its model is {mean:.3f} away from the people's "
            f"answers. It is {told}."
        )
    if not said and any(s.model == BASE for s in scores):
        said.append("There is no model of these cultures; the figures are those of the models as they are.")
    return said


def _told(difference: float, p: float) -> str:
    if p > 0.05:
        return "not told apart from"
    return "nearer than" if difference < 0 else "farther than"
