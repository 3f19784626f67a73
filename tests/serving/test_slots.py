import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from cp_ray.errors import BaseModelError
from cp_ray.serving.decoder import last_logits, use_slots
from cp_ray.serving.slots import Slots

_KINDS = [
    "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_neox", "granite",
    "llama", "mistral", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
]  # fmt: skip
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
    use_slots(llama.eval())
    return llama


def feed(model: Any, slots: Slots, ids: list[list[int]], padding: int = 0) -> torch.Tensor:
    """Logits after the last token of each of the first chats; zeros for one that is fed nothing."""
    fed = [slot for slot, row in enumerate(ids) if row]
    order, positions = slots.begin(fed, [len(ids[slot]) for slot in fed])
    assert sorted(order) == list(range(len(fed)))
    there = [fed[k] for k in order]
    ends = list(itertools.accumulate(len(ids[slot]) for slot in there))
    padded = torch.tensor([id for slot in there for id in ids[slot]] + [0] * padding)
    last, out = torch.tensor([end - 1 for end in ends]), torch.zeros(len(ids), model.config.vocab_size)
    positions = torch.nn.functional.pad(positions, (0, padding))
    out = out.to(model.dtype)
    out[there] = last_logits(model, padded, positions, last, slots)
    return out


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """By transformers itself."""
    slots_too = model.config._attn_implementation
    model.set_attn_implementation("eager")
    out: torch.Tensor = model(torch.tensor([ids])).logits[0, -1]
    model.set_attn_implementation(slots_too)
    return out


def new(model: Any, rows: int) -> Slots:
    slots = Slots(model.config, "cpu", model.dtype)
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


def test_what_pads_a_pass_changes_nothing(model: Any) -> None:
    slots = new(model, 2)
    logits = feed(model, slots, IDS[:2], padding=9)
    for row in range(2):
        torch.testing.assert_close(logits[row], alone(model, IDS[row]), atol=1e-5, rtol=0)


def test_whatever_joins_leaves_and_waits_each_chat_goes_on_as_if_alone(model: Any) -> None:
    draws, slots = random.Random(0), new(model, 0)
    chats: list[list[int]] = []
    for _ in range(150):
        if len(chats) < 12 and draws.random() < 0.5:
            chats.append([])
            slots.append(None)
        elif chats and draws.random() < 0.3:
            leaves = draws.randrange(len(chats))
            slots.remove(leaves)
            chats[leaves] = chats[-1]
            chats.pop()
        if not chats:
            continue
        fed = draws.sample(range(len(chats)), draws.randint(1, len(chats)))
        more: list[list[int]] = [[] for _ in chats]
        for slot in fed:
            more[slot] = [draws.randrange(50) for _ in range(draws.choice((1, 1, 1, 40)) if chats[slot] else 5)]
            chats[slot] += more[slot]
        logits = feed(model, slots, more)
        assert slots.lengths == [len(chat) for chat in chats]
        slot = draws.choice(fed)
        torch.testing.assert_close(logits[slot], alone(model, chats[slot]), atol=1e-4, rtol=0)


def test_a_long_chat_s_room_is_not_given_to_many_short_ones(model: Any) -> None:
    slots = new(model, 1)
    long = [k % 50 for k in range(900)]
    feed(model, slots, [long])
    short = slots_of(model, IDS[0])
    for _ in range(16):
        slots.append(short.state(0))
    assert (
        sum(keys.shape[2] * keys.shape[0] for block in slots._blocks for keys in [block.keys[0]]) < 4 * 1200 + 16 * 128
    )
    logits = feed(model, slots, [[1], *([[9]] * 16)])
    torch.testing.assert_close(logits[0], alone(model, [*long, 1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[7], alone(model, [*IDS[0], 9]), atol=1e-5, rtol=0)


def slots_of(model: Any, ids: list[int]) -> Slots:
    slots = new(model, 1)
    feed(model, slots, [ids])
    return slots


def test_the_last_one_out_gives_the_memory_back(model: Any) -> None:
    slots = new(model, 2)
    feed(model, slots, IDS[:2])
    slots.remove(1)
    slots.remove(0)
    assert not slots._blocks
    slots.append(None)
    torch.testing.assert_close(feed(model, slots, [IDS[2]])[0], alone(model, IDS[2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "gemma2"])
def test_a_window_is_kept(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4, "initializer_range": 0.5,
    }  # fmt: skip
    if kind.startswith("qwen"):
        sizes |= {"use_sliding_window": True, "max_window_layers": 1}
    of_config: Any = AutoModelForCausalLM.from_config
    windowed = of_config(AutoConfig.for_model(kind, **sizes)).eval()
    use_slots(windowed)
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


def tiny(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", _KINDS)
def test_models_of_another_build_see_the_same(kind: str) -> None:
    other = tiny(kind).double()  # transformers' norms stay in float32
    use_slots(other)
    slots = new(other, 2)
    feed(other, slots, [IDS[2][:4], [9]])
    logits = feed(other, slots, [IDS[2][4:], [7, 8]])
    torch.testing.assert_close(logits[0], alone(other, IDS[2]), atol=5e-6, rtol=0)
    torch.testing.assert_close(logits[1], alone(other, [9, 7, 8]), atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mpt", "nemotron", "stablelm"])
def test_a_model_that_attends_in_a_way_of_its_own_is_refused(kind: str) -> None:
    with pytest.raises(BaseModelError, match="in a way of its own, which cannot be served here"):
        use_slots(tiny(kind))


def test_attention_that_changes_what_comes_out_is_refused(model: Any) -> None:
    slots = new(model, 1)
    slots.begin([0], [1])
    attend, part = AttentionInterface._global_mapping["cp_ray_slots"], torch.zeros(1, 1, 1, 4)
    with pytest.raises(BaseModelError, match="position_bias, which cannot be served"):
        attend(model.model.layers[0].self_attn, part, part, part, None, slots=slots, position_bias=part)
