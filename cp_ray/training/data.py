"""From examples to batches: rows that share a prompt together, in an order that depends on the seed alone."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cp_ray.branches import Branches, encode
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message

__all__ = ["batches", "shard", "shared_prompts", "total_weight"]


def shared_prompts(examples: Sequence[Example], tokenizer: Any, opinion_weight: float) -> list[Branches]:
    """Examples by prompt, each distinct answer once and weighted with how often it was given.

    Raises:
        ConfigError: there are no examples, all weigh nothing, or one does not end with the assistant's message.
        BaseModelError: the tokenizer's chat template cannot be used.
    """
    if not examples:
        raise ConfigError("examples: there are none to train on; look at what the steps before set aside")
    answers: dict[tuple[Message, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for example in sorted(examples, key=lambda e: e.id):
        *prompt, answer = example.messages
        if answer.role != "assistant":
            raise ConfigError(f"examples: {example.id} must end with the assistant's message, got {answer.role!r}")
        # By row, not by prompt: an opinion and an answer may share one.
        weight = opinion_weight if example.kind == "opinion" else 1.0
        # A step of rows that weigh nothing has no mean loss.
        if weight > 0:
            answers[tuple(prompt)][answer.content] += weight
    if not answers:
        raise ConfigError("opinion_weight: is 0 and there are only opinions to train on; give it more, or add answers")
    return [encode(tokenizer, prompt, sorted(weighed.items())) for prompt, weighed in answers.items()]


def total_weight(rows: Sequence[Branches]) -> float:
    """The rows' weights together: the examples they stand for."""
    return math.fsum(weight for row in rows for weight in row.weights)


def batches(lengths: Sequence[int], batch_size: int, passes: int, seed: int) -> list[list[int]]:
    """Indices for every optimiser step: each pass takes every row once, rows of like length together.

    A pass is shuffled, cut into windows of four batches, and each window sorted by length before it is cut into
    batches, which are shuffled again: little padding, and still another order in every pass.
    """
    rng = random.Random(seed)
    steps: list[list[int]] = []
    for _ in range(passes):
        order = list(range(len(lengths)))
        rng.shuffle(order)
        cut: list[list[int]] = []
        window = batch_size * 4
        for start in range(0, len(order), window):
            some = sorted(order[start : start + window], key=lambda i: lengths[i])
            cut += [some[k : k + batch_size] for k in range(0, len(some), batch_size)]
        rng.shuffle(cut)
        steps += cut
    return steps


def shard(batch: Sequence[int], lengths: Sequence[int], rank: int, world: int) -> list[int]:
    """A worker's part of a batch; the longest rows are dealt first, each to whoever has least."""
    parts: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for index in sorted(batch, key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        parts[least].append(index)
        loads[least] += lengths[index]
    return parts[rank]
