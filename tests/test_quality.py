"""Quality of texts: perplexity against one row at a time, similarity, thresholds, and the step on real Ray."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cp_ray import steps, wordings
from cp_ray.errors import BaseModelError, ConfigError
from cp_ray.llm.embedded import load_base
from cp_ray.pipeline import Run, Step, execute
from cp_ray.quality import Measured, Perplexity, QualityConfig, judged, similarities, texts_of
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Example, Opinion, Quality, Seed, to_table
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.leakage import LeakageConfig
from tests.tiny import CONTEXT, make_base

RECIPE = load_recipe(str(Path(__file__).parent.parent / "jobs" / "culturepark.py"))
GOOD = "I think that work is a duty towards society."
SHUFFLED = "towards duty think is that society a work I."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Perplexity:
    return Perplexity(str(make_base(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def smollm2() -> Perplexity:
    return Perplexity(device="cpu")


def one_at_a_time(model: Perplexity, text: str) -> float | None:
    """By the definition: one row, no padding, no mask."""
    ids = model.ids(text)
    if len(ids) < 2:
        return None
    with torch.inference_mode():
        logs = torch.log_softmax(model.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    return math.exp(-sum(logs[k - 1, ids[k]].item() for k in range(1, len(ids))) / (len(ids) - 1))


@given(st.lists(st.text(max_size=20), max_size=6), st.sampled_from([1, 40, 2048]))
@settings(max_examples=25)
def test_a_batch_s_perplexities_are_those_of_its_rows_alone(tiny: Perplexity, texts: list[str], tokens: int) -> None:
    found = tiny(texts, tokens)
    for text, value in zip(texts, found, strict=True):
        expected = one_at_a_time(tiny, text)
        assert value == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_the_real_model_s_too_and_it_prefers_english(smollm2: Perplexity) -> None:
    texts = [GOOD, "Yes.", SHUFFLED, "", GOOD + " My parents taught me so, and I would not have it otherwise."]
    found = smollm2(texts)
    for text, value in zip(texts, found, strict=True):
        expected = one_at_a_time(smollm2, text)
        assert value == (None if expected is None else pytest.approx(expected, rel=1e-3))
    assert found[0] is not None
    assert found[2] is not None
    assert found[2] > 5 * found[0]


def test_a_text_s_figure_does_not_hang_on_what_is_beside_it(smollm2: Perplexity) -> None:
    (alone,) = smollm2([GOOD])
    beside = smollm2([GOOD, "word " * 20, "x", GOOD])
    assert beside[0] == pytest.approx(alone, rel=1e-4)
    assert beside[3] == pytest.approx(alone, rel=1e-4)


def test_what_is_beyond_the_model_s_context_is_not_read(tiny: Perplexity) -> None:
    begin = "a b" * (CONTEXT // 3)
    assert tiny([begin + "c" * 500]) == [pytest.approx(tiny([(begin + "c" * 500)[: CONTEXT - 1]])[0])]


def test_a_base_model_without_a_chat_template_will_do(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(BaseModelError, match="no chat template"):
        load_base(str(folder))
    assert Perplexity(str(folder), device="cpu")(["abc"])[0] is not None


def encode(texts: Any) -> Any:
    """Vectors by the number of vowels, of unit length."""
    made = np.array([[1 + text.lower().count(v) for v in "aeiou"] for text in texts], np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def text(said: str, question: str = "Is work a duty?", id: str = "o") -> Measured:
    return Measured(id, "german", "german/Q40", "opinion", said, question)


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
        (QualityConfig(min_words=9, max_words=9, max_perplexity=1e30, min_similarity=-1), None),
        (QualityConfig(min_words=10), "too few words"),
        (QualityConfig(max_words=8), "too many words"),
        (QualityConfig(min_similarity=1), "not similar to the question"),
        (QualityConfig(max_perplexity=1), "perplexity too high"),
    ],
)
def test_what_is_beyond_a_threshold_is_rejected(tiny: Perplexity, config: QualityConfig, why: str | None) -> None:
    (row,) = judged([text(GOOD)], tiny, encode, config)
    assert row.reject == why
    assert (row.words, row.id, row.kind, row.text) == (9, "o", "opinion", GOOD)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_perplexity": 0.5}, "max_perplexity: must be at least 1"),
        ({"max_perplexity": math.nan}, "max_perplexity: must be at least 1"),
        ({"min_similarity": 2}, "min_similarity: must be between -1 and 1, got 2"),
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


def test_rejected_opinions_are_not_measured() -> None:
    assert [t.id for t in texts_of([opinion("a", GOOD), opinion("b", GOOD, "redundant")])] == ["a"]


def test_on_ray_and_what_is_set_aside_is_not_trained_on(ray_cluster: None, tmp_path: Path) -> None:
    given = ["--root", str(tmp_path), "--max-perplexity", "300"]
    recipe = {step.name: step for step in parse_recipe(RECIPE, given, "test")[1]}
    rows = [opinion("a", GOOD), opinion("b", SHUFFLED), opinion("c", GOOD, "redundant"), opinion("d", "Tea is nice.")]
    said = Step("dedup", QualityConfig(), lambda *_: to_table(rows, Opinion), rows=Opinion)
    measured = steps.quality(said, recipe["quality"].config, workers=1)
    asked = Seed(
        "german/Q40", "german", "wvs7", "Q40", "", "Is work a duty?", ("Yes", "No"), (0.5, 0.5), 9, "Yes", "train"
    )
    seeds = Step("seeds", QualityConfig(), lambda *_: to_table([asked], Seed), rows=Seed)
    cultures = recipe["examples"].config.cultures
    near = wordings.leakage(seeds, [said], LeakageConfig())
    made = steps.examples(seeds, ExamplesConfig(cultures, answers=2), leakage=near, opinions=said, quality=measured)
    run = Run(str(tmp_path))
    execute(run, [said, measured, seeds, near, made], on_start=lambda _: None, on_done=lambda *_, skipped: None)
    found = {q.id: q for q in run.folder(measured).read(Quality)}
    assert list(found) == ["a", "b", "d"]
    assert (found["a"].reject, found["b"].reject) == (None, "perplexity too high")
    assert found["a"].similarity > found["d"].similarity
    kept = {e.id for e in run.folder(made).read(Example) if e.kind == "opinion"}
    assert kept == {id for id, q in found.items() if q.reject is None}


def test_it_is_a_step_where_it_is_asked_for(tmp_path: Path) -> None:
    def names(*more: str) -> list[str]:
        return [step.name for step in parse_recipe(RECIPE, ["--root", str(tmp_path), *more], "test")[1]]

    assert "quality" not in names()
    for asked in (("--quality", "yes"), ("--max-words", "40")):
        every = names(*asked)
        assert every.index("dedup") < every.index("quality") < every.index("examples")
