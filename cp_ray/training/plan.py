"""Which rows each optimiser step takes, and who computes what of it.

The order depends on the seed and an adapter's rows alone: not on the other adapters of the run, nor on the number of
workers, so that a run goes on after a loss with as many workers as are left. Adapters that learn the same questions
take them in the same order, and differ by their answers.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cp_ray.training.config import AdapterConfig
from cp_ray.training.rows import Rows

__all__ = ["batches", "deal", "groups", "packs", "plan"]

Batch = list[int]
"""Indices of rows."""


def plan(rows: Rows, adapters: Sequence[AdapterConfig], seed: int) -> list[list[Batch]]:
    """For each adapter the batches of its steps."""
    found = []
    for k, adapter in enumerate(adapters):
        own = np.flatnonzero(rows.adapters == k).tolist()
        steps = batches(rows.tokens[own].tolist(), adapter.batch_size, adapter.passes, str(seed))
        found.append([[own[i] for i in step] for step in steps])
    return found


def batches(lengths: Sequence[int], batch_size: int, passes: int, seed: str) -> list[Batch]:
    """Indices for every step: each pass takes every row once, rows of like length together.

    A pass is shuffled, cut into windows of four batches, and each window sorted by length before it is cut into
    batches, which are shuffled again: little padding, and still another order in every pass.
    """
    rng = random.Random(seed)
    steps: list[Batch] = []
    for _ in range(passes):
        order = list(range(len(lengths)))
        rng.shuffle(order)
        cut: list[Batch] = []
        window = batch_size * 4
        for start in range(0, len(order), window):
            some = sorted(order[start : start + window], key=lambda i: lengths[i])
            cut += [some[k : k + batch_size] for k in range(0, len(some), batch_size)]
        rng.shuffle(cut)
        steps += cut
    return steps


def deal(batch: Sequence[int], lengths: "Sequence[int] | np.ndarray[Any, Any]", workers: int) -> list[Batch]:
    """A step's rows for each worker; the longest are dealt first, each to whoever has least."""
    parts: list[Batch] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index in sorted(batch, key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        parts[least].append(index)
        loads[least] += lengths[index]
    return parts


def groups(batch: Sequence[int], rows: Rows, micro_tokens: int, *, packing: bool) -> list[list[Batch]]:
    """A worker's part of a step in groups that are computed at once, each a list of lines, a line one or more rows.

    A group has at most `micro_tokens` tokens with its padding, unless a single row has more. Its lines stand in the
    order of their adapters, and a line has rows of one adapter only. An adapter that fills a third of a group has
    groups of its own: many adapters in one would cost more than a fuller group saves.
    """
    lines = packs(batch, rows, micro_tokens) if packing else [[i] for i in batch]
    lengths = {tuple(line): int(rows.tokens[line].sum()) for line in lines}
    by_adapter: dict[int, list[Batch]] = defaultdict(list)
    for line in lines:
        by_adapter[int(rows.adapters[line[0]])].append(line)
    parts: list[list[Batch]] = [[]]
    for _, own in sorted(by_adapter.items()):
        if 3 * sum(lengths[tuple(line)] for line in own) >= micro_tokens:
            parts.append(own)
        else:
            parts[0] += own
    return [group for part in parts for group in _groups(part, lengths, micro_tokens)]


def _groups(lines: Sequence[Batch], lengths: Mapping[tuple[int, ...], int], micro_tokens: int) -> list[list[Batch]]:
    """Lines of like length together; those that stood before others do so in their group."""
    found: list[list[int]] = []
    for k in sorted(range(len(lines)), key=lambda k: (-lengths[tuple(lines[k])], lines[k])):
        # The first line of a group is its longest.
        if found and (len(found[-1]) + 1) * lengths[tuple(lines[found[-1][0]])] <= micro_tokens:
            found[-1].append(k)
        else:
            found.append([k])
    return [[lines[k] for k in sorted(group)] for group in found]


def packs(batch: Sequence[int], rows: Rows, most: int) -> list[Batch]:
    """Rows packed into lines of at most `most` tokens: longest first, best fit; never two adapters in a line."""
    open_lines: dict[int, list[tuple[int, Batch]]] = {}
    found: list[Batch] = []
    for i in sorted(batch, key=lambda i: (-rows[i].tokens, i)):
        own = open_lines.setdefault(rows[i].adapter, [])
        fitting = [(left, k) for k, (left, _) in enumerate(own) if left >= rows[i].tokens]
        if fitting:
            left, k = min(fitting)
            own[k][1].append(i)
            own[k] = (left - rows[i].tokens, own[k][1])
        else:
            line = [i]
            found.append(line)
            own.append((most - rows[i].tokens, line))
    return found
