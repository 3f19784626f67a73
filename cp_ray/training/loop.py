"""What each training worker does, with one adapter or many.

Run by `fit` in Ray Train's workers. Every worker reaches all rows and works out the same steps from the seed, so that
nothing about the order has to be communicated; each computes its part of a step. At each step an adapter's loss is the
mean over its own batch, and the losses of all adapters are summed: no adapter's gradient depends on another's rows.
"""

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cp_ray.branch_probe import check_branches
from cp_ray.branches import Tree, collate_trees, grow
from cp_ray.errors import ConfigError
from cp_ray.llm.embedded import load_base, load_shape
from cp_ray.records import TrainPoint
from cp_ray.training.checkpoint import Best, State
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.data import Data
from cp_ray.training.engine import join, plan_zero, start_engine
from cp_ray.training.gradients import Gradients
from cp_ray.training.memory import peak_memory
from cp_ray.training.model import make_learner, trunk_states
from cp_ray.training.optimizer import rate_factor
from cp_ray.training.plan import Batch, deal, groups, plan
from cp_ray.training.rows import Rows
from cp_ray.training.shared import loaded_in_parts, put
from cp_ray.training.zero import Zero, begin_state, read_state, write_state

__all__ = ["Summary", "Told", "Trainer"]


@dataclass(frozen=True, slots=True)
class Told:
    """How far a run is."""

    step: int
    steps: int
    loss: float
    """Mean over the adapters that took part."""
    tokens_per_s: float
    gb: float
    """Peak memory of this worker."""
    points: tuple[TrainPoint, ...]
    """Of the step, one an adapter."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run took."""

    zero: Zero
    steps: int
    seconds: float
    tokens: int
    peak_bytes: int
    """Of the first worker."""
    too_long: int
    """Examples left out for being longer than `max_tokens`."""
    stopped: dict[str, int]
    """Adapters that stopped early, with the step whose weights were kept."""


class Trainer:
    """A run on one worker of an initialised process group."""

    def __init__(self, config: TrainConfig, placement: Placement, data: Data, state: State | None) -> None:
        """Load the base, and go on from `state` if there is one.

        Raises:
            CpRayError: the base, the rows or the settings cannot be used, or there is not enough memory.
        """
        self.config, self.placement = config, placement
        self.device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if placement.use_gpu else torch.device("cpu")
        )
        join(self.device)
        self.zero, settings = self._load()
        self.rows = data
        self.plan = plan(self.rows.train, config.adapters, config.seed)
        self.state = state or State(updates={adapter.name: 0 for adapter in config.adapters})
        self.tokens = Counter({point.model: point.tokens for point in self.state.points})
        pad = self.tokenizer.pad_token_id
        self.below, self.below_validation = (
            trunk_states(self.base, self.learner.depth, rows, pad) for rows in (self.rows.train, self.rows.validation)
        )
        self._put_weights()
        self.gradients = Gradients(self._parameters()) if self.zero.stage == 0 else None
        self.engine, self.optimizer = start_engine(self.learner, config, placement, self.zero, settings, self.device)
        check_branches(self.base)  # not before: a shared base comes together in DeepSpeed's passes alone
        self._restore()

    def _load(self) -> tuple[Zero, dict[str, Any]]:
        """Choose how the workers share the memory by what the learner will take, then load the base accordingly."""
        name, four_bit = self.config.base_model, self.config.method == "qlora"
        dtype = None if self.config.dtype == "auto" else getattr(torch, self.config.dtype)
        shape = make_learner(load_shape(name, device=str(self.device), dtype=dtype), self.config, self.placement)
        zero, settings = plan_zero(shape, self.config, self.placement, self.device)
        # bitsandbytes puts a map's weights into 4 bits when it has all of them.
        shared = zero.stage == 3 and not four_bit
        with loaded_in_parts(settings, shape.base.dtype) if shared else contextlib.nullcontext():
            self.base, self.tokenizer = load_base(
                name, device=str(self.device), dtype=shape.base.dtype if shared else dtype, four_bit=four_bit
            )
        self.learner = make_learner(self.base, self.config, self.placement)
        return zero, settings

    @property
    def steps(self) -> int:
        """Of the longest adapter."""
        return max(len(own) for own in self.plan)

    def run(self, on_step: Callable[[Told], None], on_checkpoint: Callable[[State], None]) -> None:
        """Train to the end; `on_checkpoint` is called on every worker, with tensors on the first alone."""
        began, seconds, tokens = time.monotonic(), self.state.seconds, 0
        while self.state.step < self.steps and self._active():
            active = self._active()
            batch = self._batch(active, self.state.step)
            self._expect(batch, self._batch(active, self.state.step + 1))
            losses = self._step(batch, active)
            tokens += int(self.rows.train.tokens[batch].sum())
            self.state.step += 1
            self.state.seconds = seconds + time.monotonic() - began
            validated = self._validate(active)
            self._note(active, losses, validated)
            mean = sum(float(losses[k]) for k in active) / len(active)
            rate, gb = tokens / (time.monotonic() - began), peak_memory(self.device) / 2**30
            on_step(Told(self.state.step, self.steps, mean, rate, gb, tuple(self.state.points[-len(active) :])))
            if self.state.step % self.placement.checkpoint_every == 0 and self.state.step < self.steps:
                on_checkpoint(self._snapshot())
                self.state.tensors = {}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The weights to keep, by adapter: those with the smallest validation loss, or the last; on every worker."""
        found = {}
        for k, adapter in enumerate(self.config.adapters):
            last = {name: read_state(self.engine, p)["weight"] for name, p in self.learner.parameters_of(k)}
            best = self.state.best.get(adapter.name)
            found[adapter.name] = best.weights if best is not None else last
        return found

    def summary(self) -> Summary:
        """What it took."""
        return Summary(
            self.zero,
            self.state.step,
            self.state.seconds,
            sum(self.tokens.values()),
            peak_memory(self.device),
            self.rows.too_long,
            {name: self.state.best[name].step for name in self.state.stopped},
        )

    def _parameters(self) -> list[list[torch.nn.Parameter]]:
        """Of each adapter."""
        return [[p for _, p in self.learner.parameters_of(k)] for k in range(len(self.config.adapters))]

    def _active(self) -> list[int]:
        """Adapters that take part in the next step."""
        return [
            k for k, adapter in enumerate(self.config.adapters)
            if adapter.name not in self.state.stopped and self.state.step < len(self.plan[k])
        ]  # fmt: skip

    def _batch(self, active: Sequence[int], step: int) -> Batch:
        """Rows of a step, of those adapters that have one."""
        return [i for k in active if step < len(self.plan[k]) for i in self.plan[k][step]]

    def _expect(self, *steps: Batch) -> None:
        """Let this worker's rows of these steps come."""
        rows, world = self.rows.train, dist.get_world_size()
        rows.expect(i for batch in steps for i in deal(batch, rows, world)[dist.get_rank()])

    def _step(self, batch: Batch, active: Sequence[int]) -> Tensor:
        """One optimiser step; the mean loss of each adapter over all workers."""
        weights = torch.zeros(len(self.config.adapters), dtype=torch.float64)
        for i in batch:
            weights[self.rows.train[i].adapter] += self.rows.train[i].weight
        scales = torch.where(weights > 0, 1 / weights, 0.0).float().to(self.device)
        losses = torch.zeros_like(scales)
        parts = self._parts(batch, self.rows.train)
        if self.gradients is not None:
            self.gradients.clear(active)
        for number, group in enumerate(parts):
            self.engine.set_gradient_accumulation_boundary(number == len(parts) - 1)
            means = self._losses(group, self.rows.train, self.below) * scales
            # DeepSpeed averages over the workers, each of which has its part of the sum.
            self.engine.backward(means.sum() * dist.get_world_size())
            losses += means.detach()
        if self.gradients is not None:
            self.gradients.average(active, self.engine)
        for k, (adapter, settings_) in enumerate(zip(self.config.adapters, self.optimizer.param_groups, strict=True)):
            settings_["active"] = k in active
            settings_["lr"] = adapter.learning_rate * rate_factor(self.state.step, len(self.plan[k]), adapter.warmup)
        self.engine.step()
        dist.all_reduce(losses)
        self._check(losses)
        return losses.cpu()

    def _check(self, losses: Tensor) -> None:
        for adapter, loss in zip(self.config.adapters, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise ConfigError(f"learning_rate: {adapter.name} diverged (loss {loss}); lower it")

    def _parts(self, batch: Batch, rows: Rows) -> list[list[Batch]]:
        """This worker's groups: as many as every other's, since ZeRO's workers move together; some may be empty."""
        line_tokens = self.placement.line_tokens if self.placement.packing else None
        all_ = [
            groups(part, rows, self.placement.at_once, line_tokens) for part in deal(batch, rows, dist.get_world_size())
        ]
        own = all_[dist.get_rank()]
        return own + [[] for _ in range(max(map(len, all_)) - len(own))]

    def _losses(self, group: Sequence[Batch], rows: Rows, below: Sequence[Tensor] | None) -> Tensor:
        """Summed losses of each adapter [n] on a group of lines; an empty one computes a row that does not count."""
        lines = list(group) or [[int(rows.tokens.argmin())]]
        trees = [grow([rows[i].branches for i in line]) for line in lines]
        batch = collate_trees(trees, self.tokenizer.pad_token_id)
        owners = [rows[line[0]].adapter for line in lines]
        if self.learner.adapters is not None:
            self.learner.adapters.select(owners, everyone=self.zero.stage > 0)
        kept = None if below is None else _kept(lines, trees, below).to(self.device)
        shares = torch.tensor([rows[i].shares for line in lines for i in line], device=self.device)
        losses: Tensor = self.engine(batch.to(self.device), kept, owners, shares)
        return losses if group else losses * 0

    @torch.no_grad()
    def _validate(self, active: Sequence[int]) -> dict[int, float]:
        """Mean loss of each active adapter on its validation rows, where it is time for that."""
        rows, step = self.rows.validation, self.state.step
        due = [k for k in active if step % self._every(k) == 0 or step == len(self.plan[k])]
        batch = [i for i, k in enumerate(rows.adapters) if k in due]
        if not batch:
            return {}
        losses = torch.zeros(len(self.config.adapters), device=self.device)
        for group in self._parts(batch, rows):
            losses += self._losses(group, rows, self.below_validation)
        dist.all_reduce(losses)
        weight = {k: sum(rows[i].weight for i in batch if rows[i].adapter == k) for k in due}
        return {k: float(losses[k]) / weight[k] for k in due if weight[k]}

    def _every(self, k: int) -> int:
        """Steps from one validation of an adapter to the next."""
        return self.config.validate_every or max(1, len(self.plan[k]) // self.config.adapters[k].passes)

    def _note(self, active: Sequence[int], losses: Tensor, validated: dict[int, float]) -> None:
        """Write down what a step came to, and who stops."""
        for k in active:
            adapter, loss = self.config.adapters[k], validated.get(k)
            self.state.updates[adapter.name] += 1
            self.tokens[adapter.name] += int(self.rows.train.tokens[self.plan[k][self.state.step - 1]].sum())
            self.state.points.append(
                TrainPoint(
                    model=adapter.name,
                    step=self.state.step,
                    loss=float(losses[k]),
                    learning_rate=float(self.optimizer.param_groups[k]["lr"]),
                    tokens=self.tokens[adapter.name],
                    seconds=round(self.state.seconds, 3),
                    validation=loss,
                )
            )
            if loss is not None:
                self._judge(k, loss)

    def _judge(self, k: int, loss: float) -> None:
        adapter = self.config.adapters[k]
        best = self.state.best.get(adapter.name)
        if best is None or loss < best.loss:
            weights = {name: read_state(self.engine, p)["weight"] for name, p in self.learner.parameters_of(k)}
            self.state.best[adapter.name] = Best(loss, self.state.step, weights)
            return
        best.since += 1
        if adapter.patience is not None and best.since >= adapter.patience:
            self.state.stopped.append(adapter.name)

    def _snapshot(self) -> State:
        first = dist.get_rank() == 0
        for k, adapter in enumerate(self.config.adapters):
            for name, parameter in self.learner.parameters_of(k):
                found = read_state(self.engine, parameter)
                if first:
                    self.state.tensors |= {(adapter.name, name, key): tensor for key, tensor in found.items()}
        return self.state

    @torch.no_grad()
    def _put_weights(self) -> None:
        """Give the parameters the state's weights, before DeepSpeed makes its own copies of them."""
        for k, adapter in enumerate(self.config.adapters if self.state.tensors else ()):
            for name, parameter in self.learner.parameters_of(k):
                put(parameter, self.state.tensors[adapter.name, name, "weight"])

    def _restore(self) -> None:
        """Give the optimiser its moments, those of the state if it has any."""
        begin_state(
            self.engine, self._parameters(), [self.state.updates[adapter.name] for adapter in self.config.adapters]
        )
        if not self.state.tensors:
            return
        for k, adapter in enumerate(self.config.adapters):
            for name, parameter in self.learner.parameters_of(k):
                keys = ("weight", "exp_avg", "exp_avg_sq")
                write_state(self.engine, parameter, {key: self.state.tensors[adapter.name, name, key] for key in keys})
        self.state.tensors = {}


def _kept(lines: Sequence[Batch], trees: Sequence[Tree], below: Sequence[Tensor]) -> Tensor:
    """What the trunk made of each line's tree [b, t, d], from what it made of each row's own."""
    size = max(len(tree.tokens) for tree in trees)
    found = below[lines[0][0]].new_zeros(len(lines), size, below[lines[0][0]].shape[-1])
    for states, line, tree in zip(found, lines, trees, strict=True):
        for k, i in enumerate(line):
            states[tree.places(k)] = below[i]
    return found
