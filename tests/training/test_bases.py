"""Bases that are not built like Llama: trained, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cp_ray.cultures import CULTURES
from cp_ray.errors import BaseModelError
from cp_ray.evals.scorer import Asked, Scorer
from cp_ray.folder import open_folder
from cp_ray.llm.embedded import load_base, load_shape
from cp_ray.records import Message, TrainPoint
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.data import Learnt
from cp_ray.training.memory import PER_LAYER, PER_LOGIT, needed
from cp_ray.training.model import Learner, make_learner
from cp_ray.training.save import save_adapter
from tests.tiny import make_model, make_tokenizer

GERMAN = AdapterConfig("german", (CULTURES["german"],))


def learner(base: Any, **settings: Any) -> Learner:
    return make_learner(base, TrainConfig("tiny", (GERMAN,), WVS7, rank=4, alpha=8, **settings), Placement(1))


def seeing_model() -> Any:
    """Gemma 3 of 4B and more: a language model inside a model that sees, whose parts have modules of the same names."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    text = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    kind: Any = AutoModelForCausalLM  # untyped
    return kind.from_config(AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)).eval()


@pytest.mark.parametrize(
    ("family", "settings", "decoder"),
    [("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "GPT2Model"), ("falcon", {}, "FalconModel")],
)
def test_a_decoder_with_its_layers_elsewhere_is_refused(family: str, settings: dict[str, Any], decoder: str) -> None:
    with pytest.raises(BaseModelError, match=f"^base model: its decoder must have .* {decoder} has none; choose one"):
        learner(make_model(family, **settings))


@pytest.mark.parametrize("layers", [None, 1])
def test_layers_without_linear_maps_are_refused(layers: int | None) -> None:
    from transformers.pytorch_utils import Conv1D

    kind: Any = Conv1D  # untyped
    base = make_model("llama")
    for name, module in list(base.get_decoder().layers.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            made = kind(module.out_features, module.in_features)
            setattr(base.get_decoder().layers.get_submodule(parent), leaf, made)
    with pytest.raises(
        BaseModelError, match=r"^base model: its layers need linear maps to be adapted, got Conv1D, Llama"
    ):
        learner(base, layers=layers)


@pytest.mark.parametrize(("method", "apart"), [("lora", 0), ("full", 0), ("qlora", 0.02)])
def test_memory_is_planned_without_the_weights(method: str, apart: float) -> None:
    """To the byte, but that those in 4 bits do not count their scales."""
    shape = learner(load_shape("smollm2", dtype=torch.float32), method=method)
    assert {p.device.type for p in shape.base.parameters()} == {"meta"}
    base, _ = load_base("smollm2", dtype=torch.float32, four_bit=method == "qlora")
    made, planned = learner(base, method=method), needed(shape, Placement(1), method)
    assert planned.frozen == pytest.approx(sum(p.nbytes for p in made.parameters() if not p.requires_grad), rel=apart)
    assert planned.trained == sum(p.nbytes for p in made.parameters() if p.requires_grad)


@pytest.mark.parametrize("layers", [None, 1])
def test_the_language_model_of_one_that_sees_is_adapted_and_no_other_part(tmp_path: Path, layers: int | None) -> None:
    from peft import PeftModel, get_peft_model_state_dict

    base = seeing_model()
    base.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    made = learner(base, layers=layers)
    adapted = 3 if layers is None else layers
    per_layer, logits = PER_LAYER["lora"] * 4 // 2, 300 // 2 * PER_LOGIT
    assert needed(made, Placement(1), "lora").activations == 512 * (32 * adapted * per_layer + logits)
    own = dict(made.parameters_of(0))
    assert len(own) == adapted * 7 * 2
    assert all(".language_model.layers." in name for name in own)
    assert made.adapters is not None
    with torch.no_grad():
        for tensor in own.values():
            nn.init.normal_(tensor, std=0.3)
        made.adapters.select([0])
        ids = torch.tensor([[1, 2, 3]])
        ours = base(input_ids=ids).logits
    config = TrainConfig(str(tmp_path / "base"), (GERMAN,), WVS7, rank=4, alpha=8, layers=layers)
    folder = open_folder(str(tmp_path / "adapter"))
    points = [TrainPoint("german", 1, 1.0, 0.1, 10, 1.0, None)]
    save_adapter(folder, made.adapters, config, GERMAN, own, points, Learnt(8, 0))
    theirs: Any = PeftModel.from_pretrained(seeing_model(), str(tmp_path / "adapter"))
    assert get_peft_model_state_dict(theirs).keys() == own.keys()
    with torch.no_grad():
        assert torch.allclose(theirs(input_ids=ids).logits, ours, atol=1e-4)
    scorer = Scorer(str(tmp_path / "base"), {"german": folder})
    assert scorer.context == 64
    ((plain, german),) = scorer.option_shares([Asked((Message("user", "?"),), ("yes", "no"), (None, "german"))])
    assert plain != pytest.approx(german, rel=1e-2)
