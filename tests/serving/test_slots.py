from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cp_ray.errors import BaseModelError
from cp_ray.serving.slots import Slots

IDS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15]]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    llama: Any = LlamaForCausalLM(config)
    return llama.eval()


def feed(model: Any, slots: Slots, ids: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    positions, mask = slots.begin([len(row) for row in ids])
    out: torch.Tensor = model(
        input_ids=padded, position_ids=positions, attention_mask=mask, past_key_values=slots.cache
    ).logits[:, -1]
    return out


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    out: torch.Tensor = model(torch.tensor([ids])).logits[0, -1]
    return out


def new(model: Any, rows: int) -> Slots:
    slots = Slots(model.config, "cpu", torch.float32)
    for _ in range(rows):
        slots.append(None)
    return slots


def test_each_row_sees_its_own_tokens_alone_whatever_is_fed_at_once(model: Any) -> None:
    slots = new(model, 3)
    feed(model, slots, [[5], [], [10, 11, 12]])
    feed(model, slots, [[6, 7], [], [13]])
    logits = feed(model, slots, [[8], [9], [14, 15]])
    for row, ids in enumerate(IDS):
        torch.testing.assert_close(logits[row], alone(model, ids), atol=1e-5, rtol=0)


def test_rows_leave_and_join_and_the_others_go_on(model: Any) -> None:
    slots = new(model, 3)
    feed(model, slots, IDS)
    kept = slots.state(0)
    slots.remove(0)  # the last row takes its slot
    logits = feed(model, slots, [[20], [21]])
    torch.testing.assert_close(logits[0], alone(model, [*IDS[2], 20]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1], alone(model, [*IDS[1], 21]), atol=1e-5, rtol=0)
    slots.append(kept.first(3))
    logits = feed(model, slots, [[22], [23], [24]])
    torch.testing.assert_close(logits[2], alone(model, [5, 6, 7, 24]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[0], alone(model, [*IDS[2], 20, 22]), atol=1e-5, rtol=0)


def test_chats_grow_beyond_what_was_allocated(model: Any) -> None:
    slots = new(model, 1)
    ids = [k % 50 for k in range(300)]
    feed(model, slots, [ids[:250]])
    logits = feed(model, slots, [ids[250:]])
    torch.testing.assert_close(logits[0], alone(model, ids), atol=1e-4, rtol=0)


def test_a_long_chat_s_room_is_not_given_to_many_short_ones_nor_theirs_to_it(model: Any) -> None:
    slots = new(model, 1)
    long = [k % 50 for k in range(900)]
    feed(model, slots, [long])
    for _ in range(2):
        slots.append(None)
    feed(model, slots, [[1], IDS[0], IDS[1]])
    slots.remove(0)  # the long one leaves, and the batch is never empty
    for _ in range(10):
        slots.append(None)
    logits = feed(model, slots, [[2], [3], *([IDS[2]] * 10)])
    torch.testing.assert_close(logits[5], alone(model, IDS[2]), atol=1e-5, rtol=0)
    assert slots._layers[0].keys is not None
    assert slots._layers[0].keys.shape[0] * slots._layers[0].keys.shape[2] <= 16 * 256
    for _ in range(11):
        slots.remove(0)
    logits = feed(model, slots, [long])
    assert slots._layers[0].keys.shape[0] == 1
    assert slots.lengths[0] > 900


def test_the_last_one_out_gives_the_memory_back(model: Any) -> None:
    slots = new(model, 2)
    feed(model, slots, IDS[:2])
    slots.remove(1)
    slots.remove(0)
    assert all(layer.keys is None for layer in slots._layers)
    slots.append(None)
    torch.testing.assert_close(feed(model, slots, [IDS[2]])[0], alone(model, IDS[2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_a_window_is_kept(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4, "initializer_range": 0.5,
    }  # fmt: skip
    if kind == "qwen2":
        sizes |= {"use_sliding_window": True, "max_window_layers": 1}
    of_config: Any = AutoModelForCausalLM.from_config
    windowed = of_config(AutoConfig.for_model(kind, **sizes)).eval()
    slots = new(windowed, 2)
    ids = [list(range(1, 12)), list(range(20, 33))]
    feed(windowed, slots, [ids[0][:7], ids[1][:3]])
    logits = feed(windowed, slots, [ids[0][7:], ids[1][3:]])
    for row in range(2):
        torch.testing.assert_close(logits[row], alone(windowed, ids[row]), atol=1e-5, rtol=0)


def test_a_model_that_keeps_something_else_is_refused() -> None:
    config = LlamaConfig(num_hidden_layers=2)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(BaseModelError, match="linear_attention; only attention"):
        Slots(config, "cpu", torch.float32)
