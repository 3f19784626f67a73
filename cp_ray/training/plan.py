"""Which rows each optimiser step takes, and who computes what of it.

The order depends on the seed and an adapter's rows alone: not on the other adapters of the run, nor on the number of
workers, so that a run goes on after a loss with as many workers as are left. Adapters that learn the same questions
take them in the same order, and differ by their answers. Rows that begin alike come in one step, and are computed
together.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from cp_ray.training.config import AdapterConfig
from cp_ray.training.rows import Rows

__all__ = ["alike", "batches", "deal", "groups", "packs", "plan"]

Batch = list[int]
"""Indices of rows."""

_TOGETHER = 256
"""Tokens of rows that begin alike and are dealt to one worker, at most."""


def plan(rows: Rows, adapters: Sequence[AdapterConfig], seed: int) -> list[list[Batch]]:
    """For each adapter the batches of its steps."""
    found = []
    for k, adapter in enumerate(adapters):
        own = np.flatnonzero(rows.adapters == k).tolist()
        lengths, stems = (rows.column(name)[own].tolist() for name in ("tokens", "stem"))
        steps = batches(lengths, stems, adapter.batch_size, adapter.passes, str(seed))
        found.append([[own[i] for i in step] for step in steps])
    return found


def batches(lengths: Sequence[int], stems: Sequence[int], batch_size: int, passes: int, seed: str) -> list[Batch]:
    """Indices for every step: each pass takes every row once, those of one stem and of like length together.

    The stems of a pass are shuffled, their rows cut into windows of four batches, and each window sorted by length
    before it is cut into batches, which are shuffled again: little padding, and still another order in every pass.
    """
    rng = random.Random(seed)
    by_stem: dict[int, Batch] = defaultdict(list)
    for i, stem in enumerate(stems):
        by_stem[stem].append(i)
    longest = {stem: max(lengths[i] for i in own) for stem, own in by_stem.items()}
    steps: list[Batch] = []
    for _ in range(passes):
        families = [rng.sample(own, len(own)) for own in by_stem.values()]
        rng.shuffle(families)
        order = [i for own in families for i in own]
        cut: list[Batch] = []
        window = batch_size * 4
        for start in range(0, len(order), window):
            # Stems of one length keep the order that they were shuffled into.
            place = {stems[i]: k for k, i in enumerate(order[start : start + window])}
            some = sorted(order[start : start + window], key=lambda i: (longest[stems[i]], place[stems[i]]))
            cut += [some[k : k + batch_size] for k in range(0, len(some), batch_size)]
        rng.shuffle(cut)
        steps += cut
    return steps


def deal(batch: Sequence[int], rows: Rows, workers: int) -> list[Batch]:
    """A step's rows for each worker; the longest lines are dealt first, each to whoever has least.

    Rows that begin alike stay together as far as no worker gets more than its share for that.
    """
    parts: list[Batch] = [[] for _ in range(workers)]
    loads = [0] * workers
    share = int(rows.tokens[list(batch)].sum()) // workers
    lines = {tuple(line): int(rows.tokens[line].sum()) for line in alike(batch, rows, min(_TOGETHER, share))}
    for line, tokens in sorted(lines.items(), key=lambda of: (-of[1], of[0])):
        least = loads.index(min(loads))
        parts[least] += line
        loads[least] += tokens
    return parts


def alike(batch: Sequence[int], rows: Rows, most: int) -> list[Batch]:
    """Rows that begin alike in lines of at most `most` tokens, all others in lines of their own."""
    open_lines: dict[tuple[int, int], tuple[int, Batch]] = {}
    found: list[Batch] = []
    for i in sorted(batch):
        own, tokens = (int(rows.adapters[i]), int(rows.column("stem")[i])), int(rows.tokens[i])
        taken, line = open_lines.get(own, (most, []))
        if taken + tokens > most:
            taken, line = 0, []
            found.append(line)
        line.append(i)
        open_lines[own] = taken + tokens, line
    return found


def groups(batch: Sequence[int], rows: Rows, micro_tokens: int, line_tokens: int | None) -> list[list[Batch]]:
    """A worker's part of a step in groups that are computed at once, each a list of lines, a line one or more rows.

    A group has at most `micro_tokens` tokens with its padding, unless a single row has more. Its lines stand in the
    order of their adapters, and a line has rows of one adapter only. An adapter that fills a third of a group has
    groups of its own: many adapters in one would cost more than a fuller group saves.

    Args:
        batch: the part.
        rows: all of them.
        micro_tokens: of a group; counted as if no rows began alike.
        line_tokens: of a line, counted in the same way; None for a line a row.
    """
    lines = [[i] for i in batch]
    if line_tokens is not None:
        lines = packs(alike(batch, rows, line_tokens), rows, line_tokens)
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


def packs(lines: Sequence[Batch], rows: Rows, most: int) -> list[Batch]:
    """Lines put together to at most `most` tokens: longest first, best fit; never two adapters in one."""
    lengths = {tuple(line): int(rows.tokens[line].sum()) for line in lines}
    open_lines: dict[int, list[tuple[int, Batch]]] = defaultdict(list)
    found: list[Batch] = []
    for line, tokens in sorted(lengths.items(), key=lambda of: (-of[1], of[0])):
        own = open_lines[int(rows.adapters[line[0]])]
        fitting = [(left, k) for k, (left, _) in enumerate(own) if left >= tokens]
        if fitting:
            left, k = min(fitting)
            own[k][1].extend(line)
            own[k] = (left - tokens, own[k][1])
        else:
            found.append(list(line))
            own.append((most - tokens, found[-1]))
    return found
