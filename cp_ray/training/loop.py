"""What each training worker does: one adapter, from shared prompts, with DeepSpeed.

Run by `fit` in Ray Train's workers. Every worker holds all rows and works out the same batches from the seed, so that
nothing about the order has to be communicated; each computes its part of a batch.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cp_ray.branches import Batch, Branches, collate, hidden_states, token_logprobs
from cp_ray.errors import ConfigError
from cp_ray.llm.embedded import load_base
from cp_ray.records import Example, TrainPoint
from cp_ray.training.config import Placement, TrainConfig, deepspeed_config
from cp_ray.training.data import batches, shard, shared_prompts, total_weight
from cp_ray.trunk import FAMILIES, crown, trunk

__all__ = ["train_adapter"]

_TRUNK_BYTES = 4 * 2**30
"""Hidden states that a worker keeps at most; beyond, the trunk is computed in every pass."""


class _Loss(nn.Module):
    """The adapted model, down to the loss; what DeepSpeed wraps."""

    def __init__(self, model: Any, depth: int) -> None:
        super().__init__()
        self.model = model
        self.depth = depth

    def forward(self, batch: Batch, below: Tensor | None) -> Tensor:
        """Weighted negative log-likelihood, summed over the batch; `below` is what the trunk made of it, if kept."""
        causal = self.model.get_base_model()
        if below is None:
            states = hidden_states(causal, batch)
        else:
            states = crown(causal.get_decoder(), self.depth, below, batch.positions, batch.mask)
        return -(token_logprobs(causal, states, batch) * batch.weight).sum()


@dataclass(frozen=True, slots=True)
class _Rows:
    """All rows of the run, and what the trunk makes of each (None: it is not kept)."""

    rows: Sequence[Branches]
    below: Sequence[Tensor] | None

    def collated(self, indices: Sequence[int], pad_id: int, dtype: torch.dtype) -> tuple[Batch, Tensor | None]:
        """Some rows as a batch with the trunk's states [b, t, d]."""
        batch = collate([self.rows[i] for i in indices], pad_id, dtype)
        if self.below is None:
            return batch, None
        some = [self.below[i] for i in indices]
        return batch, nn.utils.rnn.pad_sequence(some, batch_first=True)


def train_adapter(
    config: TrainConfig,
    placement: Placement,
    examples: Sequence[Example],
    on_step: Callable[[int, int, float], None],
) -> tuple[Any, list[TrainPoint]]:
    """Train one adapter. Called by every worker of an initialised process group; all get the same result.

    Args:
        config: what to train.
        placement: where; this process is one of `placement.workers`.
        examples: of one culture.
        on_step: called after each step with steps done, steps in all, and the loss.

    Returns:
        The PEFT model, and a point per step.
    """
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if placement.use_gpu else torch.device("cpu")
    base, tokenizer = load_base(config.base_model, device=str(device))
    rows = shared_prompts(examples, tokenizer, config.opinion_weight)
    depth = _depth(base, config.layers)
    kept = _Rows(rows, _below(base, depth, rows, tokenizer.pad_token_id))
    model = _with_adapter(base, depth, config)
    lengths = [row.tokens for row in rows]
    steps = batches(lengths, config.batch_size, config.passes, config.seed)
    engine, schedule = _engine(_Loss(model, depth), config, placement, len(steps), base.dtype)

    points: list[TrainPoint] = []
    seen, began = 0, time.monotonic()
    for number, step in enumerate(steps, 1):
        own = shard(step, lengths, dist.get_rank(), dist.get_world_size())
        scale = 1 / total_weight([rows[i] for i in step])
        loss = _step(engine, kept, own, tokenizer.pad_token_id, base.dtype, scale)
        rate = float(schedule.get_last_lr()[0])
        schedule.step()
        seen += sum(lengths[i] for i in step)
        points.append(TrainPoint(config.culture.id, number, loss, rate, seen, round(time.monotonic() - began, 3)))
        on_step(number, len(steps), loss)
    return model, points


def _step(engine: Any, kept: _Rows, own: Sequence[int], pad_id: int, dtype: torch.dtype, scale: float) -> float:
    """One optimiser step; the batch's mean loss over all workers.

    DeepSpeed averages gradients over the workers, each of which has only its part of the sum: hence times their number.
    A worker without a row in a short batch still takes part, with a loss of nothing.
    """
    if own:
        batch, below = kept.collated(own, pad_id, dtype)
        batch = batch.to(engine.device)
        local = engine(batch, below if below is None else below.to(engine.device)) * scale
    else:
        local = sum(p.sum() for p in engine.parameters() if p.requires_grad) * 0.0
    engine.backward(local * dist.get_world_size())
    engine.step()
    total = local.detach().clone()
    dist.all_reduce(total)
    loss = float(total)
    if not math.isfinite(loss):
        raise ConfigError(f"learning_rate: training diverged (loss {loss}); lower it")
    return loss


def _depth(base: Any, layers: int | None) -> int:
    """How many layers lie below the first adapted one."""
    total = len(base.get_decoder().layers)
    if layers is not None and layers > total:
        raise ConfigError(f"layers: the base model has {total}, got {layers}; give at most so many, or None for all")
    return 0 if layers is None else total - layers


@torch.no_grad()
def _below(base: Any, depth: int, rows: Sequence[Branches], pad_id: int) -> list[Tensor] | None:
    """What the trunk makes of every row: each worker computes its share, then they exchange them."""
    width = base.config.hidden_size * base.dtype.itemsize
    fits = sum(row.tokens for row in rows) * width <= _TRUNK_BYTES
    if depth == 0 or not fits or base.config.model_type not in FAMILIES:
        return None
    rank, world = dist.get_rank(), dist.get_world_size()
    order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)[rank::world]
    own: dict[int, Tensor] = {}
    for start in range(0, len(order), 8):
        some = order[start : start + 8]
        batch = collate([rows[i] for i in some], pad_id, base.dtype).to(base.device)
        states = trunk(base.get_decoder(), depth, batch.input_ids, batch.positions, batch.mask).cpu()
        own |= {i: states[k, : rows[i].tokens].clone() for k, i in enumerate(some)}
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, own)
    everything = {i: states for share in shares for i, states in share.items()}
    return [everything[i] for i in range(len(rows))]


def _with_adapter(base: Any, depth: int, config: TrainConfig) -> Any:
    """The base, frozen, with a fresh LoRA adapter on every linear map of the layers from `depth` on."""
    from peft import LoraConfig, get_peft_model

    layers = base.get_decoder().layers
    linear = {name.rpartition(".")[2] for name, module in layers[0].named_modules() if isinstance(module, nn.Linear)}
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=sorted(linear),
        layers_to_transform=list(range(depth, len(layers))) if depth else None,
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, lora)
    return model


def _engine(
    module: _Loss, config: TrainConfig, placement: Placement, steps: int, dtype: torch.dtype
) -> tuple[Any, torch.optim.lr_scheduler.LambdaLR]:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if placement.use_gpu else "cpu")
    import deepspeed

    # Without this, DeepSpeed compiles a shared-memory operator for the CPU first; plain gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    trainable = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(steps, config.warmup))
    deepspeed.init_distributed("nccl" if placement.use_gpu else "gloo", auto_mpi_discovery=False, verbose=False)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=deepspeed_config(config, placement, bf16=dtype == torch.bfloat16),
    )
    return engine, schedule


def _rate(steps: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / rising) * max(0.0, (steps - step) / steps)

    return factor
