"""The forward pass of a decoder whose keys and values lie in slots.

transformers computes it, and calls back where a layer attends. For models built like Llama the layers are written out
here, in fewer and smaller pieces (`python -m benchmarks.engine_steps` has both).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from cp_ray.errors import BaseModelError
from cp_ray.packed_linear import PackedPart
from cp_ray.serving.slots import Slots
from cp_ray.stacked_linear import StackedLinear

__all__ = ["last_logits", "together", "use_slots"]

_NAME = "cp_ray_slots"
_ALIKE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Models in transformers whose layers differ in their numbers and in what they attend to, not in what they do."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_SAME_EVERYWHERE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions that hang on nothing else than the position."""
_STRANGE = ("position_bias", "s_aux")
"""What some models give to their attention that changes what comes out."""


def use_slots(model: Any) -> None:
    """Let a transformers model attend to what is in slots, and see whether it does.

    Raises:
        BaseModelError: it attends in a way of its own.
    """
    if not model._supports_attention_backend:
        raise BaseModelError(_refused("in a way of its own"))
    AttentionInterface.register(_NAME, _attend)
    model.set_attn_implementation(_NAME)
    if type(model).__name__ in _ALIKE and model.model.rotary_emb.rope_type in _SAME_EVERYWHERE:
        model.model.rotary_emb = _Rotary(model.model.rotary_emb)
    slots = Slots(model.config, str(model.device), model.dtype)
    slots.append(None)
    _, positions = slots.begin([0], [1])
    told = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        last_logits(model, told, positions, told, slots)


def together(model: Any) -> Iterator[Sequence[str]]:
    """Paths of the layers that are asked for together, by `cp_ray.packed_linear.pack`'s terms."""
    if type(model).__name__ in _ALIKE:
        for layer in range(len(model.model.layers)):
            yield [f"model.layers.{layer}.self_attn.{name}" for name in _PROJECTIONS]


def last_logits(model: Any, ids: Tensor, positions: Tensor, last: Tensor, slots: Slots) -> Tensor:
    """Append tokens to the slots.

    Args:
        model: to predict the next token, after `use_slots`.
        ids: [tokens], chat behind chat in the order that `slots.begin` gave, then padding.
        positions: [tokens], from there as well.
        last: places in `ids` after which the logits are wanted.
        slots: ready for this pass.

    Returns:
        [last, vocabulary].
    """
    if type(model).__name__ in _ALIKE:
        return _like_llama(model, ids, positions, last, slots)
    told = ids.new_zeros(1, 1, 1, 1)  # a mask that is ready made, or transformers makes one
    logits: Tensor = model(
        input_ids=ids[None], attention_mask=told, position_ids=positions[None], use_cache=False, logits_to_keep=last,
        slots=slots,
    ).logits  # fmt: skip
    return logits[0]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor, *, slots: Slots | None = None,
    scaling: float | None = None, softcap: float | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Called by transformers: [1, heads, tokens, size of a head] thrice to [1, tokens, heads, size of a head]."""
    strange = [name for name in _STRANGE if more.get(name) is not None]
    if slots is None or strange:
        raise BaseModelError(_refused(f"with {strange[0]}" if strange else "in a way of its own"))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return slots.attend(module.layer_idx, query, key, value, scale, softcap)[None], None


def _refused(how: str) -> str:
    return f"base model: it attends {how}, which cannot be served here; use vLLM, or another base"


class _Rotary(nn.Module):
    """Cosines and sines of positions, worked out once: for a few tokens that takes longer than a layer."""

    def __init__(self, exact: Any) -> None:
        super().__init__()
        self.exact = exact
        self._cos = self._sin = torch.empty(1, 0, 0)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of positions [1, tokens]: [1, tokens, size of a head] twice, in the type of `x`."""
        needed, known = int(position_ids.max()) + 1, self._cos.shape[1]
        if needed > known:
            every = torch.arange(max(needed, 2 * known), device=x.device)[None]
            self._cos, self._sin = self.exact(x, every)
        return self._cos[:, position_ids[0]], self._sin[:, position_ids[0]]


def _like_llama(model: Any, ids: Tensor, positions: Tensor, last: Tensor, slots: Slots) -> Tensor:
    decoder = model.model
    hidden = decoder.embed_tokens(ids)[None]
    turn = _turn(*decoder.rotary_emb(hidden, positions[None]))
    for layer in decoder.layers:
        attended = _attended(layer.self_attn, _normed(layer.input_layernorm, hidden), turn, slots)
        hidden = attended.add_(hidden)
        mlp, normed = layer.mlp, _normed(layer.post_attention_layernorm, hidden)
        inner = mlp.act_fn(mlp.gate_proj.forward(normed)).mul_(mlp.up_proj.forward(normed))
        hidden = mlp.down_proj.forward(inner).add_(hidden)
    logits: Tensor = model.lm_head.forward(_normed(decoder.norm, hidden[:, last]))
    return logits[0]


def _attended(attention: Any, x: Tensor, turn: tuple[Tensor, Tensor], slots: Slots) -> Tensor:
    """[1, tokens, width] to the same, with what each token sees."""
    query, key, value = (made.view(x.shape[1], -1, attention.head_dim) for made in _projected(attention, x))
    heads = slots.attend(attention.layer_idx, _turned(query, turn), _turned(key, turn), value, attention.scaling)
    out: Tensor = attention.o_proj.forward(heads.view(*x.shape[:2], -1))
    return out


def _projected(attention: Any, x: Tensor) -> Iterable[Tensor]:
    """Queries, keys and values."""
    layers = [getattr(attention, name) for name in _PROJECTIONS]
    first = layers[0].base if isinstance(layers[0], StackedLinear) else layers[0]
    if not isinstance(first, PackedPart):
        return [layer.forward(x) for layer in layers]
    made = zip(layers, first.together(x), strict=True)
    return [layer.added(x, y) if isinstance(layer, StackedLinear) else y for layer, y in made]


def _turn(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """How positions turn queries and keys: [tokens, 1, size of a head] twice, signs with the sines."""
    first, second = sin.chunk(2, dim=-1)
    return cos[0, :, None], torch.cat((-first, second), dim=-1)[0, :, None]


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def _normed(norm: Any, x: Tensor) -> Tensor:
    """In float32, as transformers does, in fewer pieces than torch's own."""
    exact = x.float()
    length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    normed = exact * torch.rsqrt(length * length / x.shape[-1] + norm.variance_epsilon)
    return normed.mul_(norm.weight).to(x.dtype)
