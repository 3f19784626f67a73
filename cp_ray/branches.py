"""Rows that begin alike, computed once as far as they do.

Many rows share a prompt: the same survey question, answered by many people. A `Branches` holds the prompt once and
each distinct answer once; weights say how much each answer counts. Rows whose prompts begin alike, as one question in
two orders of its options does, grow into one `Tree`, in which each token comes once and goes on from the one before it:
its position is its depth, and it sees those that it goes on from and no other. Log-probabilities, losses and gradients
are those of the separate rows, for a fraction of the tokens. All options of a question are scored in the same way, in
one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from cp_ray.causal import logits, masks
from cp_ray.chat import encode_answers
from cp_ray.records import Message

__all__ = [
    "Batch",
    "Branches",
    "Tree",
    "answer_logprobs",
    "collate",
    "collate_trees",
    "common",
    "encode",
    "grow",
    "hidden_states",
    "seen",
    "token_logprobs",
]


@dataclass(frozen=True, slots=True)
class Branches:
    """Token ids of a prompt and of its answers."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    """Each up to and including the token that ends the turn."""
    weights: tuple[float, ...]
    """One an answer."""

    @property
    def tokens(self) -> int:
        """Tokens to compute at most: an answer's last one is predicted, never fed."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows in one, each token that they have in common once."""

    rows: tuple[Branches, ...]
    tokens: tuple[int, ...]
    """Each behind the one that it goes on from, and before all others that go on from that one later."""
    depths: tuple[int, ...]
    """Of each token, from 0."""
    ends: tuple[int, ...]
    """Of each token: the place behind the last one that goes on from it."""
    paths: tuple[tuple[tuple[int, ...], ...], ...]
    """Of each row and answer: the places of the prompt's tokens, and of the answer's but the last."""

    def places(self, row: int) -> list[int]:
        """Of a row's tokens, in the order that they have in a tree of the row alone."""
        return sorted({place for path in self.paths[row] for place in path})


@dataclass(frozen=True, slots=True)
class Batch:
    """Trees of `Branches` as tensors, padded on the right; and for every answer token where it is predicted."""

    input_ids: Tensor
    """[b, t]"""
    positions: Tensor
    """[b, t]"""
    ends: Tensor
    """[b, t]: the place behind the last token that goes on from this one, so that it is seen by those between."""
    row: Tensor
    """[n] of each label: which of the b."""
    place: Tensor
    """[n]: which of the t predicts it."""
    target: Tensor
    """[n]: the token to be predicted."""
    answer: Tensor
    """[n]: which answer of the batch it belongs to, counted through."""
    weight: Tensor
    """[n]: the weight of that answer."""
    prompt: Tensor
    """[n]: which `Branches` of the batch that answer belongs to, counted through."""
    answers: int
    """Of the batch; a number, since a GPU would have to be waited for to read one."""

    def to(self, device: Any) -> "Batch":
        """The same on another device."""
        parts = {name: getattr(self, name) for name in Batch.__slots__}
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **moved)


def encode(tokenizer: Any, messages: Sequence[Message], answers: Sequence[tuple[str, float]]) -> Branches:
    """A chat's prompt and the weighted answers to it, by the model's own chat template.

    Raises:
        ConfigError: there is no message to answer.
        BaseModelError: the template does not take these messages, or does not let an answer's tokens be told.
    """
    prompt, branches = encode_answers(tokenizer, messages, [text for text, _ in answers])
    return Branches(prompt, tuple(branches), tuple(weight for _, weight in answers))


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """At how many places two sequences begin alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def grow(rows: Sequence[Branches]) -> Tree:
    """One tree of rows, which need not have anything in common."""
    chains = sorted(
        (row.prompt + answer[:-1], r, a) for r, row in enumerate(rows) for a, answer in enumerate(row.answers)
    )
    tokens, depths, ends = list[int](), list[int](), list[int]()
    paths: list[list[tuple[int, ...]]] = [[()] * len(row.answers) for row in rows]
    # In this order whatever a chain has in common with any before it, it has in common with the last.
    before, path = tuple[int, ...](), tuple[int, ...]()
    for chain, r, a in chains:
        alike = common(before, chain)
        for place in path[alike:]:
            ends[place] = len(tokens)
        path = (*path[:alike], *range(len(tokens), len(tokens) + len(chain) - alike))
        tokens += chain[alike:]
        depths += range(alike, len(chain))
        ends += [0] * (len(chain) - alike)
        before, paths[r][a] = chain, path
    for place in path:
        ends[place] = len(tokens)
    return Tree(tuple(rows), tuple(tokens), tuple(depths), tuple(ends), tuple(map(tuple, paths)))


def collate(rows: Sequence[Branches], pad_id: int) -> Batch:
    """Rows as one batch, a line each."""
    return collate_trees([grow([row]) for row in rows], pad_id)


def collate_trees(trees: Sequence[Tree], pad_id: int) -> Batch:
    """Trees as one batch, a line each."""
    shape = (len(trees), max(len(tree.tokens) for tree in trees))
    input_ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    # Padding must see something, or its softmax would be over nothing: itself.
    ends = torch.arange(1, shape[1] + 1).repeat(len(trees), 1)
    labels: list[tuple[int, int, int, int, int]] = []
    weights: list[float] = []
    rows = answers = 0
    for line, tree in enumerate(trees):
        own = slice(len(tree.tokens))
        input_ids[line, own], positions[line, own] = torch.tensor(tree.tokens), torch.tensor(tree.depths)
        ends[line, own] = torch.tensor(tree.ends)
        for row, paths in zip(tree.rows, tree.paths, strict=True):
            for answer, weight, path in zip(row.answers, row.weights, paths, strict=True):
                # An answer's first token is predicted where the prompt ends, each other one where the last was fed.
                places = path[len(row.prompt) - 1 :]
                labels += [(line, place, token, answers, rows) for place, token in zip(places, answer, strict=True)]
                weights += [weight] * len(answer)
                answers += 1
            rows += 1
    line_, place, target, answer_, prompt = torch.tensor(labels).unbind(1)
    return Batch(input_ids, positions, ends, line_, place, target, answer_, torch.tensor(weights), prompt, answers)


def seen(model: Any, batch: Batch) -> Tensor | dict[str, Tensor]:
    """What each token may look at, as the model's decoder takes it: no further back than its windows reach."""
    return masks(model, _mask(batch.ends, model.dtype), batch.positions)


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [b, t, d] of a transformers causal language model."""
    decoder = model.get_decoder()
    states: Tensor = decoder(
        input_ids=batch.input_ids, position_ids=batch.positions, attention_mask=seen(model, batch), use_cache=False
    ).last_hidden_state
    return states


def token_logprobs(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-probability [n] of every answer token; the vocabulary is computed at these places only."""
    logprobs = torch.log_softmax(logits(model, hidden[batch.row, batch.place]), dim=-1)
    return logprobs.gather(1, batch.target[:, None])[:, 0]


def answer_logprobs(logprobs: Tensor, batch: Batch) -> Tensor:
    """Log-probability of every answer of the batch, in order."""
    total = torch.zeros(batch.answers, dtype=logprobs.dtype, device=logprobs.device)
    return total.index_add(0, batch.answer, logprobs)


def _mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """[b, 1, t, t], added to the scores: 0 where a token may look, before it at what ends behind it; else the least."""
    place = torch.arange(ends.shape[1], device=ends.device)
    allowed = (place <= place[:, None]) & (place[:, None] < ends[:, None, :])
    none = torch.zeros(allowed.shape, dtype=dtype, device=ends.device)
    return none.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
