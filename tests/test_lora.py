import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cp_ray.errors import BaseModelError
from cp_ray.lora import StackedLora
from cp_ray.peft_folder import Added
from cp_ray.stacked_linear import Selection, StackedLinear


def tiny_base(*, bias: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=bias,
    )
    model: Any = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(weight)
    return model.eval()


def make_adapter(folder: Path, seed: int, *, bias: bool = False, **changes: Any) -> Path:
    """A PEFT folder whose weights are all random, so that it does change the base."""
    from peft import LoraConfig, get_peft_model

    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]} | changes
    model: Any = get_peft_model(tiny_base(bias=bias), LoraConfig(**options))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_magnitude" in name:
            weight.data *= 1 + torch.rand_like(weight)
        elif "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "a": make_adapter(root / "a", 1),
        "b": make_adapter(root / "b", 2),
        "wide": make_adapter(root / "wide", 3, r=7, lora_alpha=3, target_modules="all-linear", use_rslora=True),
        "other": make_adapter(root / "other", 4, target_modules=["o_proj", "q_proj"]),
        "dora": make_adapter(root / "dora", 5, use_dora=True),
        "dora too": make_adapter(
            root / "dora too", 6, use_dora=True, r=3, use_rslora=True, target_modules=["q_proj", "o_proj"]
        ),
    }


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(5))


def expected(adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    from peft import PeftModel

    model: Any = tiny_base() if adapter is None else PeftModel.from_pretrained(tiny_base(), adapter)
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(ids).logits
    return logits


def stacked_logits(adapters: dict[str, Path], rows: list[str | None], ids: torch.Tensor) -> torch.Tensor:
    model = tiny_base()
    stacked = StackedLora(model, adapters)
    with torch.inference_mode(), stacked.rows(rows):
        logits: torch.Tensor = model(ids.expand(len(rows), -1)).logits
    return logits


@pytest.mark.parametrize(
    "rows",
    [
        ["a", "b", None, "wide", "other"],
        ["wide", None, "other", "b", "a", "a"],
        ["b"],
        ["b", "b", "b"],
        [None],
        [None, None],
        ["dora", "a", None, "dora too", "dora", "wide"],
        ["dora too"],
        ["other", None],
        ["a", "a", "b", "a", "wide", "other", "a", "dora"],
    ],
)
def test_each_row_equals_peft_with_its_own_adapter(
    adapters: dict[str, Path], ids: torch.Tensor, rows: list[str | None]
) -> None:
    logits = stacked_logits(adapters, rows, ids)
    for row, name in enumerate(rows):
        torch.testing.assert_close(
            logits[row : row + 1], expected(adapters[name] if name else None, ids), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["a", None, "dora", "a", None, "b", "b", "dora"], [1, 1, 1, 3, 2, 4, 2, 5]),
        (["a", "b", None], [1, 1, 1]),
        (["wide", None, "other"], [2, 3, 4]),
        ([None, None, "dora too"], [1, 1, 4]),
        (["a", "b", None], [1, 1, 4]),
        (["b", "b"], [1, 3]),
        ([None, None], [1, 3]),
    ],
)
def test_fed_behind_each_other_each_token_has_its_row_s_adapter(
    adapters: dict[str, Path], ids: torch.Tensor, names: list[str | None], counts: list[int]
) -> None:
    padding = 3 if counts[-1] > 1 else 0
    fed = torch.cat([ids[:, :count] for count in counts] + [ids[:, :padding]], dim=1)
    at = torch.arange(fed.shape[1])[None]
    row = torch.cat([torch.full((n,), k) for k, n in enumerate([*counts, padding])])
    own = (row[:, None] == row) & (at[0][:, None] >= at)
    model = tiny_base()
    stacked = StackedLora(model, adapters)
    positions = torch.cat([torch.arange(n) for n in [*counts, padding]])[None]
    with torch.inference_mode(), stacked.rows(names, counts):
        logits = model(fed, attention_mask=own[None, None], position_ids=positions).logits
    for k, name in enumerate(names):
        alone = expected(adapters[name] if name else None, ids[:, : counts[k]])
        torch.testing.assert_close(logits[:, row == k], alone, atol=1e-5, rtol=0)


def test_rows_are_seated_by_adapter_unless_most_seats_would_stay_empty() -> None:
    selection, device = Selection(), torch.device("cpu")
    selection.choose([1, -1, 0, 1], device)
    assert selection.seats is not None
    assert (selection.seats.rows[[0, 2, 3]].tolist(), selection.seats.adapted.tolist()) == ([2, 0, 3], [2, 0, 3])
    assert selection.seats.own.tolist() == [0, 2, 3]
    selection.choose([0, 0, 1, 0, 2, 3, 0, 4], device)
    assert selection.seats is None


@pytest.mark.parametrize("places", [[0, 1, -1, 2], [2, 2, 2, 2], [1, -1, 1, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("tokens", [1, 3])
def test_in_16_bits_a_row_gets_its_own_adapter_s_sum(places: list[int], tokens: int) -> None:
    torch.manual_seed(0)
    base, selection = torch.nn.Linear(24, 40).to(torch.bfloat16), Selection()
    layer = StackedLinear(base, selection, 4)
    parts = [Added(torch.randn(r, 24).bfloat16(), torch.randn(r, 40).bfloat16(), None) for r in (3, 5, 2, 5)]
    for place, added in enumerate(parts):
        layer.put(place, added)
    x = torch.randn(4, tokens, 24).bfloat16()
    selection.choose(places, x.device)
    with torch.inference_mode():
        found = layer(x).float()
        for row, place in enumerate(places):
            own = base.float()(x[row].float())
            if place >= 0:
                own = own + x[row].float() @ parts[place].down.float().T @ parts[place].up.float()
            base.bfloat16()
            assert (found[row] - own).abs().max() < 0.02 * own.abs().max()


def test_dora_leaves_a_layer_s_bias_as_it_is(tmp_path: Path, ids: torch.Tensor) -> None:
    from peft import PeftModel

    folders = {
        name: make_adapter(
            tmp_path / name, seed, bias=True, use_dora=name == "dora", target_modules=["q_proj", "o_proj"]
        )
        for seed, name in enumerate(("dora", "lora"))
    }
    model = tiny_base(bias=True)
    stacked = StackedLora(model, folders)
    with torch.inference_mode(), stacked.rows(["dora", None, "lora"]):
        logits = model(ids.expand(3, -1)).logits
    for row, name in ((0, "dora"), (2, "lora")):
        alone: Any = PeftModel.from_pretrained(tiny_base(bias=True), folders[name])
        with torch.inference_mode():
            torch.testing.assert_close(logits[row], alone.eval()(ids).logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1], tiny_base(bias=True)(ids).logits[0].detach(), atol=1e-5, rtol=0)
    assert all((logits[i] - logits[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_rows_beside_a_dora_adapter_stay_as_they_are(adapters: dict[str, Path], ids: torch.Tensor) -> None:
    plain = {name: adapters[name] for name in ("a", "b")}
    alone = stacked_logits(plain, ["a", None, "b"], ids)
    beside = stacked_logits({**plain, "dora": adapters["dora"]}, ["a", None, "b"], ids)
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=0)


def test_the_adapters_do_differ_from_each_other_and_from_the_base(adapters: dict[str, Path], ids: torch.Tensor) -> None:
    logits = stacked_logits(adapters, [*adapters, None], ids)
    for i in range(len(logits)):
        for j in range(i):
            assert (logits[i] - logits[j]).abs().max() > 1e-2


def test_the_model_is_the_bare_base_outside_of_rows(adapters: dict[str, Path], ids: torch.Tensor) -> None:
    model = tiny_base()
    stacked = StackedLora(model, adapters)
    with stacked.rows(["a"]):
        pass
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, expected(None, ids), atol=0, rtol=0)


def test_an_inner_selection_gives_way_to_the_outer_one(adapters: dict[str, Path], ids: torch.Tensor) -> None:
    model = tiny_base()
    stacked = StackedLora(model, adapters)
    with torch.inference_mode(), stacked.rows(["a"]):
        with pytest.raises(KeyError), stacked.rows(["nobody"]):
            pass
        with stacked.rows(["b"]):
            pass
        torch.testing.assert_close(model(ids).logits, expected(adapters["a"], ids), atol=1e-5, rtol=0)


def test_a_batch_of_another_size_is_refused(adapters: dict[str, Path], ids: torch.Tensor) -> None:
    model = tiny_base()
    stacked = StackedLora(model, adapters)
    with stacked.rows(["a", "b"]), pytest.raises(ValueError, match="2 adapters are selected for a batch of 1"):
        model(ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "has no lengths of DoRA that fit"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = make_adapter(tmp_path / "x", 1)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | options))
    with pytest.raises(BaseModelError, match=f"'x'.*{message}"):
        StackedLora(tiny_base(), {"x": folder})


def test_lengths_that_the_configuration_does_not_tell_of_are_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", 1, use_dora=True)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": False}))
    with pytest.raises(BaseModelError, match=r"'x': weight .*lora_magnitude_vector is not plain LoRA"):
        StackedLora(tiny_base(), {"x": folder})


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BaseModelError, match="pickles"):
        StackedLora(tiny_base(), {"x": folder})


def test_damaged_weights_give_one_clear_line(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", 1)
    (folder / "adapter_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(BaseModelError, match="damaged"):
        StackedLora(tiny_base(), {"x": folder})


@pytest.mark.parametrize("kind", ["lora_A", "lora_B", "lora_magnitude_vector"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_whose_training_has_diverged_is_refused(tmp_path: Path, kind: str, value: float) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_adapter(tmp_path / "x", 1, use_dora=True)
    weights = load_file(folder / "adapter_model.safetensors")
    next(weight for name, weight in weights.items() if kind in name).view(-1)[-1] = value
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(BaseModelError, match=r"'x': weights of .*_proj are not finite; its training has diverged"):
        StackedLora(tiny_base(), {"x": folder})


def test_an_adapter_of_another_base_is_refused(adapters: dict[str, Path]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    wider = LlamaForCausalLM(LlamaConfig(hidden_size=32, **sizes))
    with pytest.raises(BaseModelError, match="another base"):
        StackedLora(wider, {"a": adapters["a"]})


def test_no_folder_gives_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="give a PEFT folder"):
        StackedLora(tiny_base(), {"x": tmp_path / "nowhere"})
