"""Likelihood of texts, against one row at a time without padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cp_ray.errors import BaseModelError
from cp_ray.likelihood import Likelihood
from cp_ray.llm.embedded import load_base
from tests.tiny import CONTEXT, make_base

GOOD = "I think that work is a duty towards society."
TEXTS = st.text(max_size=20)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Likelihood:
    return Likelihood(str(make_base(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def smollm2() -> Likelihood:
    return Likelihood(device="cpu")


def one_at_a_time(model: Likelihood, text: str, context: str = "") -> NDArray[np.float64]:
    """By the definition: one row, no padding, no mask, all logits."""
    before, own = (model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (context, text))
    ids = [model.first, *before, *own]
    with torch.inference_mode():
        logs = torch.log_softmax(model.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    return np.array([-logs[k - 1, ids[k]].item() for k in range(1 + len(before), len(ids))])


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), st.sampled_from([1, 40, 2048]))
@settings(max_examples=25)
def test_a_batch_s_figures_are_those_of_its_rows_alone(
    tiny: Likelihood, pairs: list[tuple[str, str]], tokens: int
) -> None:
    found = tiny([text for text, _ in pairs], [context for _, context in pairs], tokens)
    assert len(found) == len(pairs)
    for (text, context), nats in zip(pairs, found, strict=True):
        np.testing.assert_allclose(nats, one_at_a_time(tiny, text, context), rtol=1e-4, atol=1e-5)


@given(st.lists(TEXTS, max_size=6))
@settings(max_examples=10)
def test_no_context_is_an_empty_one(tiny: Likelihood, texts: list[str]) -> None:
    for one, other in zip(tiny(texts), tiny(texts, [""] * len(texts)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_real_model_s_too_whatever_is_beside_a_text(smollm2: Likelihood) -> None:
    texts = [GOOD, "Yes.", "", "word " * 20, GOOD + " My parents taught me so, and I would not have it otherwise."]
    contexts = ["", "Is work a duty?\n", "Is it?\n", "", "Is work a duty towards society?\n"]
    for text, context, nats in zip(texts, contexts, smollm2(texts, contexts), strict=True):
        np.testing.assert_allclose(nats, one_at_a_time(smollm2, text, context), rtol=1e-3, atol=1e-3)


def test_a_question_makes_what_it_says_again_less_surprising(smollm2: Likelihood) -> None:
    alone, after = smollm2([GOOD, GOOD], ["", "Is work a duty towards society?\n"])
    assert after.mean() < 0.7 * alone.mean()


def test_beyond_the_model_s_context_is_read_neither_the_end_nor_the_beginning(tiny: Likelihood) -> None:
    begin, long = "a b" * (CONTEXT // 3), "c" * 500
    (nats,) = tiny([begin + long])
    np.testing.assert_allclose(nats, one_at_a_time(tiny, (begin + long)[: CONTEXT - 1]), rtol=1e-4)
    (nats,) = tiny(["abc"], [long + begin])
    np.testing.assert_allclose(nats, one_at_a_time(tiny, "abc", (long + begin)[4 - CONTEXT :]), rtol=1e-4)
    (nats,) = tiny([long], [begin])
    np.testing.assert_allclose(nats, one_at_a_time(tiny, long[: CONTEXT - 1]), rtol=1e-4)


def test_a_base_model_without_a_chat_template_will_do(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(BaseModelError, match="no chat template"):
        load_base(str(folder))
    assert len(Likelihood(str(folder), device="cpu")(["abc"])[0]) == 3
