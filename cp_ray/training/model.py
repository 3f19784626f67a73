"""A base model made ready to be trained, and what it loses on a batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cp_ray.branches import Batch, answer_logprobs, collate_trees, grow, hidden_states, seen, token_logprobs
from cp_ray.causal import layers, text_config
from cp_ray.training.adapt import Adapters
from cp_ray.training.attention import use_short_attention
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.rows import Row
from cp_ray.training.shared import is_shared
from cp_ray.trunk import FAMILIES, crown, trunk

__all__ = ["Learner", "make_learner", "trunk_states"]

_TRUNK_BYTES = 4 * 2**30
"""Hidden states that a worker keeps at most; beyond, the trunk is computed in every pass."""


class Learner(nn.Module):
    """The adapted model, down to the loss; what DeepSpeed wraps."""

    def __init__(self, base: Any, adapters: Adapters | None, depth: int, config: TrainConfig) -> None:
        super().__init__()
        self.base = base
        self.adapters = adapters
        """None: every weight of the base is trained."""
        self.depth = depth
        """Layers below the first adapted one."""
        self.names = tuple(adapter.name for adapter in config.adapters)
        self.distribution = config.objective == "distribution"

    def forward(self, batch: Batch, below: Tensor | None, adapters: Sequence[int], shares: Tensor) -> Tensor:
        """Weighted loss of each adapter [n], summed over its rows.

        Args:
            batch: lines in the order of their adapters.
            below: what the trunk made of them [b, t, d]; None: it is computed here.
            adapters: of each line.
            shares: [p], for each prompt: its answers are options, and their weights a distribution.
        """
        if below is None:
            states = hidden_states(self.base, batch)
        else:
            states = crown(self.base.get_decoder(), self.depth, below, batch.positions, seen(self.base, batch))
        logprobs = token_logprobs(self.base, states, batch)
        losses = -logprobs * batch.weight
        if self.distribution:
            losses = losses * ~shares[batch.prompt]
        owner = torch.tensor(adapters, device=losses.device)[batch.row]
        total = torch.zeros(len(self.names), dtype=losses.dtype, device=losses.device).index_add(0, owner, losses)
        if not self.distribution:
            return total
        return total + _cross_entropy(logprobs, batch, owner, shares, len(self.names))

    def parameters_of(self, adapter: int) -> list[tuple[str, nn.Parameter]]:
        """What is trained for an adapter, by the names under which it is kept."""
        if self.adapters is not None:
            return list(self.adapters.parameters(adapter))
        return [(name, p) for name, p in self.base.named_parameters() if p.requires_grad]


def _cross_entropy(logprobs: Tensor, batch: Batch, owner: Tensor, shares: Tensor, adapters: int) -> Tensor:
    """Cross-entropy [n] between the shares of a prompt's answers and the model's probabilities over these answers."""
    per_answer = answer_logprobs(logprobs, batch)
    first = torch.zeros(len(per_answer), dtype=torch.long, device=owner.device).scatter(
        0, batch.answer.flip(0), torch.arange(len(batch.answer), device=owner.device).flip(0)
    )
    prompt = batch.prompt[first]
    # log of the sum over a prompt's answers; each is set off by the prompt's largest, or exp would be 0.
    largest = torch.full((len(shares),), -torch.inf, device=owner.device)
    largest = largest.scatter_reduce(0, prompt, per_answer.detach(), "amax")
    sums = torch.zeros(len(shares), device=owner.device).index_add(0, prompt, (per_answer - largest[prompt]).exp())
    renormalised = per_answer - largest[prompt] - sums.log()[prompt]
    losses = -renormalised * batch.weight[first] * shares[prompt]
    return torch.zeros(adapters, dtype=losses.dtype, device=owner.device).index_add(0, owner[first], losses)


def make_learner(base: Any, config: TrainConfig, placement: Placement) -> Learner:
    """Freeze what is not trained, and put fresh adapters on.

    Raises:
        BaseModelError: it has nothing that can be adapted.
    """
    depth = 0 if config.layers is None else max(0, len(layers(base)) - config.layers)
    if base.device.type == "cpu":
        use_short_attention(base)
    if placement.gradient_checkpointing:
        _recompute(layers(base)[depth:])
    if config.method == "full":
        base.requires_grad_(True)
        return Learner(base, None, 0, config)
    adapters = Adapters(
        base,
        [adapter.name for adapter in config.adapters],
        rank=config.rank,
        alpha=config.alpha,
        seed=config.seed,
        dora=config.method == "dora",
        from_layer=depth,
    )
    return Learner(base, adapters, depth, config)


def _recompute(some: Sequence[nn.Module]) -> None:
    """Keep a layer's input alone, and compute the layer again in the backward pass."""
    for layer in some:
        plain: Any = layer.forward
        layer.forward = lambda *given, _plain=plain, **more: checkpoint(_plain, *given, use_reentrant=False, **more)


@torch.no_grad()
def trunk_states(base: Any, depth: int, rows: Sequence[Row], pad_id: int) -> list[Tensor] | None:
    """What the layers below the first adapted one make of every row's tree [t, d]; None where it is not worth keeping.

    It is the same in all passes. Each worker computes its share, then they exchange them.
    """
    kept_bytes = sum(row.tokens for row in rows) * text_config(base).hidden_size * base.dtype.itemsize
    if depth == 0 or base.config.model_type not in FAMILIES or kept_bytes > _TRUNK_BYTES:
        return None
    if is_shared(next(base.parameters())):
        return None  # its parts come together in a pass of DeepSpeed's alone
    rank, world = dist.get_rank(), dist.get_world_size()
    order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)[rank::world]
    own: dict[int, Tensor] = {}
    for start in range(0, len(order), 8):
        some = order[start : start + 8]
        trees = [grow([rows[i].branches]) for i in some]
        batch = collate_trees(trees, pad_id).to(base.device)
        states = trunk(base.get_decoder(), depth, batch.input_ids, batch.positions, seen(base, batch)).cpu()
        own |= {i: states[k, : len(trees[k].tokens)].clone() for k, i in enumerate(some)}
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, own)
    everything = {i: states for share in shares for i, states in share.items()}
    return [everything[i] for i in range(len(rows))]
