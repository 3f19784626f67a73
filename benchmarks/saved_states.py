"""What a layer keeps for the backward pass, in bytes for a token and a hidden unit; nothing is computed.

    python -m benchmarks.saved_states

Counts what autograd saves on the shape of an 8B model in bfloat16, on torch's `meta` device, with the attention of a
GPU, which keeps its inputs and its output. `cp_ray/training/memory.py` plans with these figures. Appends a line to
benchmarks/results.jsonl.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.random_model import SHAPES
from benchmarks.results import append
from cp_ray.branches import Branches, collate_trees, grow
from cp_ray.cultures import CULTURES
from cp_ray.survey.read import WVS7
from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
from cp_ray.training.memory import PER_LAYER, PER_LOGIT
from cp_ray.training.model import make_learner

_PROMPT, _ANSWER, _ROWS = 300, 100, 10


def main() -> None:
    """Count, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    shape = parser.parse_args().shape
    functional: Any = torch.nn.functional
    functional.scaled_dot_product_attention = _attention
    found = {}
    for method in ("lora", "dora", "full"):
        one, three = (_saved(shape, method, layers) for layers in (1, 3))
        layer = (three - one) / 2
        units = _ROWS * (_PROMPT + _ANSWER) * SHAPES[shape]["hidden_size"]
        logits = _ROWS * _ANSWER * SHAPES[shape]["vocab_size"]
        found[method] = {"layer": round(layer / units, 1), "head": round((one - layer) / logits, 1)}
        print(
            f"{method:5} {found[method]['layer']:6.1f} bytes a layer (planned {PER_LAYER[method]}), "
            f"{found[method]['head']:5.1f} a logit (planned {PER_LOGIT}, with what the backward pass makes)"
        )
    append("saved_states", {"shape": shape, **found})


class _Attention(torch.autograd.Function):
    """Keeps what flash attention keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out


def _attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Any:
    """In the place of torch's."""
    kept: Any = _Attention  # untyped
    return kept.apply(query, key, value)


def _saved(shape: str, method: str, layers: int) -> int:
    from transformers import LlamaConfig, LlamaForCausalLM

    kind: Any = LlamaForCausalLM  # untyped
    sizes: dict[str, Any] = {**SHAPES[shape], "num_hidden_layers": layers}
    with torch.device("meta"):
        base = kind(LlamaConfig(max_position_embeddings=8192, **sizes)).to(torch.bfloat16)
    config = TrainConfig("", (AdapterConfig("german", (CULTURES["german"],)),), WVS7, method=method)
    learner = make_learner(base, config, Placement(1, use_gpu=True))
    rows = [Branches((k, *range(1, _PROMPT)), (tuple(range(_ANSWER)),), (1.0,)) for k in range(_ROWS)]
    batch = collate_trees([grow(rows)], 0).to("meta")
    if learner.adapters is not None:
        learner.adapters.select([0])
    saved = dict[int, int]()
    weights = {t.untyped_storage()._cdata for t in (*learner.parameters(), *learner.buffers())}
    kept = list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in saved:
            saved[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # or another storage could come to lie in its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        learner(batch, None, [0], torch.zeros(_ROWS, dtype=torch.bool, device="meta"))
    return sum(saved.values())


if __name__ == "__main__":
    main()
