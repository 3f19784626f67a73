"""Perplexity is that of the models by themselves, and the base agrees with itself."""

import math
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError
from cp_ray.evals.forgetting import ForgettingConfig, forgetting_scores, neutral_texts, text_losses
from cp_ray.evals.results.others import forgetting_section
from cp_ray.folder import open_folder
from cp_ray.records import TextLoss
from tests.tiny import make_adapter, make_base

TEXTS = ("Water boils.", "A bicycle stays upright more easily when it moves.")


def alone(base: Path, adapter: Path | None) -> tuple[float, list[list[int]]]:
    """Perplexity over all tokens, and the likeliest token at each place, with transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    nats, tokens, likeliest = 0.0, 0, []
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text).input_ids]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += len(logits)
        likeliest.append(logits.argmax(-1).tolist())
    return math.exp(nats / tokens), likeliest


def test_perplexity_and_agreement_are_those_of_the_models_alone(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "german", 1, std=0.1)
    config = ForgettingConfig(str(base), ("german",), TEXTS)
    losses = text_losses(config, {"german": open_folder(str(adapter))})
    found = {(s.model, s.metric): s for s in forgetting_scores(losses, config)}
    (ppl, told), (own_ppl, own) = alone(base, None), alone(base, adapter)
    assert found["base", "perplexity"].value == pytest.approx(ppl, rel=1e-4)
    assert found["german", "perplexity"].value == pytest.approx(own_ppl, rel=1e-4)
    assert own_ppl != pytest.approx(ppl, rel=1e-3)
    assert found["base", "agreement"].value == 1.0
    same = [a == b for one, other in zip(told, own, strict=True) for a, b in zip(one, other, strict=True)]
    assert 0 < sum(same) < len(same)
    assert found["german", "agreement"].value == pytest.approx(sum(same) / len(same))


def test_figures_by_hand_and_their_place_on_the_page() -> None:
    losses = [TextLoss(m, str(k), 10, nats, agreed) for k in range(6) for m, nats, agreed in
              (("base", 10.0, 10), ("german", 20.0, 4))]  # fmt: skip
    scores = forgetting_scores(losses, ForgettingConfig("b", ("german",), ("x",)))
    found = {(s.model, s.metric): (s.value, s.low, s.high) for s in scores}
    assert found["base", "perplexity"] == pytest.approx((math.e,) * 3)
    assert found["german", "perplexity"] == pytest.approx((math.e**2,) * 3)
    assert found["german", "agreement"] == pytest.approx((0.4,) * 3)
    (said,) = forgetting_section(scores).said
    assert said.startswith("german: perplexity of neutral text +171.8% against the untrained base")


def test_a_model_whose_numbers_are_none_expects_nothing_of_a_text() -> None:
    losses = [TextLoss("german", str(k), 10, math.nan if k else 20.0, 0) for k in range(6)]
    found = {s.metric: (s.value, s.low, s.high) for s in forgetting_scores(losses, ForgettingConfig("b", (), ("x",)))}
    assert found["perplexity"] == (math.inf,) * 3


def test_there_are_twenty_texts_and_none_may_be_empty() -> None:
    assert len(neutral_texts()) == 20
    with pytest.raises(ConfigError, match="none of them empty"):
        ForgettingConfig("b", (), ("x", " "))
