"""Quality of texts: perplexity, similarity, thresholds, and the step on real Ray."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cp_ray import steps
from cp_ray.arrow import to_table
from cp_ray.errors import ConfigError
from cp_ray.language import Languages
from cp_ray.likelihood import Likelihood
from cp_ray.pipeline import Run, Step, execute
from cp_ray.quality import Measured, QualityConfig, judged, perplexity, similarities, texts_of
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Example, Opinion, Quality, Seed
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.leakage import LeakageConfig
from tests.tiny import make_base

RECIPE = load_recipe(str(Path(__file__).parent.parent / "jobs" / "culturepark.py"))
GOOD = "I think that work is a duty towards society."
GERMAN = "Ich denke, dass Arbeit eine Pflicht ist."
SHUFFLED = "towards duty think is that society a work I."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Likelihood:
    return Likelihood(str(make_base(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def smollm2() -> Likelihood:
    return Likelihood(device="cpu")


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages(QualityConfig().languages)


def test_perplexity_is_exp_of_the_mean_surprise(tiny: Likelihood) -> None:
    (nats,) = tiny([GOOD])
    assert perplexity(nats) == pytest.approx(math.exp(nats.sum() / len(GOOD)))
    assert perplexity(nats[:0]) is None
    assert perplexity(np.full(3, 1e4, np.float32)) == math.exp(700)


def test_the_real_model_prefers_english(smollm2: Likelihood) -> None:
    good, shuffled = (perplexity(nats) for nats in smollm2([GOOD, SHUFFLED]))
    assert good is not None
    assert shuffled is not None
    assert shuffled > 5 * good


def encode(texts: Any) -> Any:
    """Vectors by the number of vowels, of unit length."""
    made = np.array([[1 + text.lower().count(v) for v in "aeiou"] for text in texts], np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def text(said: str, question: str = "Is work a duty?", id: str = "o", margin: float | None = None) -> Measured:
    return Measured(id, "german", "german/Q40", "opinion", said, question, margin)


def test_similarity_is_to_the_text_s_own_question() -> None:
    rows = [text("aaa", "aaa"), text("ooo", "aaa"), text("ooo", "ooo")]
    first, other, last = similarities(rows, encode)
    assert first == pytest.approx(1.0)
    assert last == pytest.approx(1.0)
    assert other < 0.9
    assert similarities([], encode) == []


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (QualityConfig(), None),
        (QualityConfig(min_words=9, max_words=9, max_perplexity=1e30, min_similarity=-1, min_english=0.99), None),
        (QualityConfig(min_words=10), "too few words"),
        (QualityConfig(max_words=8), "too many words"),
        (QualityConfig(min_similarity=1), "not similar to the question"),
        (QualityConfig(max_perplexity=1), "perplexity too high"),
    ],
)
def test_what_is_beyond_a_threshold_is_rejected(
    tiny: Likelihood, languages: Languages, config: QualityConfig, why: str | None
) -> None:
    (row,) = judged([text(GOOD)], tiny, encode, languages, config)
    assert row.reject == why
    assert row.language == "en"
    assert row.language_probability > 0.99
    assert (row.words, row.id, row.kind, row.text) == (9, "o", "opinion", GOOD)


def test_what_is_not_in_english_is_rejected_where_english_is_wanted(tiny: Likelihood, languages: Languages) -> None:
    said = [GERMAN, "12 34", "Yes.", GOOD]
    for least, kept in ((None, said), (0.0, said[2:]), (0.9, said[3:])):
        rows = judged([text(t) for t in said], tiny, encode, languages, QualityConfig(min_english=least))
        assert [row.text for row in rows if row.reject is None] == kept
        assert {row.reject for row in rows} <= {None, "not in English"}


@pytest.mark.parametrize(
    ("margin", "why"),
    [(0.31, None), (0.3, None), (0.29, "relation not sure enough"), (None, "relation margin not known")],
)
def test_an_unsure_relation_is_rejected_where_a_sure_one_is_wanted(
    tiny: Likelihood, languages: Languages, margin: float | None, why: str | None
) -> None:
    (row,) = judged([text(GOOD, margin=margin)], tiny, encode, languages, QualityConfig(min_margin=0.3))
    assert (row.margin, row.reject) == (margin, why)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_margin": 1.5}, "min_margin: must be between -1 and 1, got 1.5"),
        ({"max_perplexity": 0.5}, "max_perplexity: must be at least 1"),
        ({"max_perplexity": math.nan}, "max_perplexity: must be at least 1"),
        ({"min_similarity": 2}, "min_similarity: must be between -1 and 1, got 2"),
        ({"min_english": 1.1}, "min_english: must be between 0 and 1, got 1.1"),
        ({"min_words": 0}, "min_words: must be at least 1, got 0"),
        ({"min_words": 9, "max_words": 8}, "min_words: must not be above max_words, got 9 above 8"),
    ],
)
def test_a_wrong_threshold_is_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        QualityConfig(**wrong)
    assert said in str(raised.value)


def opinion(id: str, said: str, reject: str | None = None) -> Opinion:
    return Opinion(id, "", "german/Q40", "german", "", "", "Is work a duty towards society?", said, reject=reject)


def test_rejected_opinions_are_not_measured_and_a_margin_comes_along() -> None:
    sure = replace(opinion("a", GOOD), margin=0.4)
    unknown = replace(opinion("c", GOOD), no_margin="the teacher tells no log-probabilities")
    measured = texts_of([sure, opinion("b", GOOD, "redundant"), unknown])
    assert [(t.id, t.margin, t.no_margin) for t in measured] == [
        ("a", 0.4, None), ("c", None, "the teacher tells no log-probabilities"),
    ]  # fmt: skip


def test_on_ray_and_what_is_set_aside_is_not_trained_on(ray_cluster: None, tmp_path: Path) -> None:
    given = ["--root", str(tmp_path), "--max-perplexity", "300", "--min-english", "0.5"]
    recipe = {step.name: step for step in parse_recipe(RECIPE, given, "test")[1]}
    rows = [
        opinion("a", GOOD),
        opinion("b", SHUFFLED),
        opinion("c", GOOD, "redundant"),
        opinion("d", "Tea is nice."),
        opinion("e", GERMAN),
    ]
    said = Step("dedup", QualityConfig(), lambda *_: to_table(rows, Opinion), rows=Opinion)
    measured = steps.quality(said, recipe["quality"].config, workers=1)
    asked = Seed(
        "german/Q40", "german", "wvs7", "Q40", "", "Is work a duty?", ("Yes", "No"), (0.5, 0.5), 9, "Yes", "train"
    )
    seeds = Step("seeds", QualityConfig(), lambda *_: to_table([asked], Seed), rows=Seed)
    cultures = recipe["examples"].config.cultures
    near = steps.leakage(seeds, [said], LeakageConfig())
    made = steps.examples(seeds, ExamplesConfig(cultures, answers=2), leakage=near, opinions=said, quality=measured)
    run = Run(str(tmp_path))
    execute(run, [said, measured, seeds, near, made], on_start=lambda _: None, on_done=lambda *_, skipped: None)
    found = {q.id: q for q in run.folder(measured).read(Quality)}
    assert list(found) == ["a", "b", "d", "e"]
    assert [found[id].reject for id in "abe"] == [None, "perplexity too high", "not in English"]
    assert [found[id].language for id in "abe"] == ["en", "en", "de"]
    assert found["a"].similarity > found["d"].similarity
    kept = {e.id for e in run.folder(made).read(Example) if e.kind == "opinion"}
    assert kept == {id for id, q in found.items() if q.reject is None}


def test_it_is_a_step_where_it_is_asked_for(tmp_path: Path) -> None:
    def names(*more: str) -> list[str]:
        return [step.name for step in parse_recipe(RECIPE, ["--root", str(tmp_path), *more], "test")[1]]

    assert "quality" not in names()
    for asked in (("--quality", "yes"), ("--max-words", "40"), ("--min-margin", "0")):
        every = names(*asked)
        assert every.index("dedup") < every.index("quality") < every.index("examples")
