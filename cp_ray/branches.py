"""One prompt with several answers, computed once.

Many rows share a prompt: the same survey question, answered by many people. A `Branches` holds the prompt once and
each distinct answer once, as a branch that goes on from the prompt: its positions continue the prompt's, and it sees
the prompt and itself but no other branch. Weights say how much each answer counts. Log-probabilities, losses and
gradients are those of the separate rows, for a fraction of the tokens. All options of a question are scored in the
same way, in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cp_ray.causal import logits, masks
from cp_ray.chat import encode_answers
from cp_ray.records import Message

__all__ = [
    "Batch",
    "Branches",
    "answer_logprobs",
    "collate",
    "collate_lines",
    "encode",
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
        """Tokens to compute: an answer's last one is predicted, never fed."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of `Branches` as tensors, padded on the right; and for every answer token where it is predicted."""

    input_ids: Tensor
    """[b, t]"""
    positions: Tensor
    """[b, t]"""
    mask: Tensor
    """[b, 1, t, t], added to the attention scores: 0 where a token may look, else the least number."""
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

    def to(self, device: Any) -> "Batch":
        """The same on another device."""
        return Batch(*(getattr(self, name).to(device) for name in Batch.__slots__))


def encode(tokenizer: Any, messages: Sequence[Message], answers: Sequence[tuple[str, float]]) -> Branches:
    """A chat's prompt and the weighted answers to it, by the model's own chat template.

    Raises:
        ConfigError: there is no message to answer.
        BaseModelError: the template does not take these messages, or does not let an answer's tokens be told.
    """
    prompt, branches = encode_answers(tokenizer, messages, [text for text, _ in answers])
    return Branches(prompt, tuple(branches), tuple(weight for _, weight in answers))


def collate(rows: Sequence[Branches], pad_id: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Rows as one batch, a line each."""
    return collate_lines([[row] for row in rows], pad_id, dtype)


def collate_lines(lines: Sequence[Sequence[Branches]], pad_id: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Lines of one or more rows as one batch; no row of a line sees another."""
    shape = (len(lines), max(sum(row.tokens for row in line) for line in lines))
    input_ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    row_of, branch_of = torch.full(shape, -1), torch.full(shape, -1)
    labels: list[tuple[int, int, int, int, int]] = []
    weights: list[float] = []
    rows = answers = 0
    for r, line in enumerate(lines):
        at = 0
        for row in line:
            begin, at = at, at + len(row.prompt)
            row_of[r, begin : begin + row.tokens] = rows
            input_ids[r, begin:at] = torch.tensor(row.prompt)
            positions[r, begin:at] = torch.arange(len(row.prompt))
            branch_of[r, begin:at] = 0
            end_of_prompt = at - 1
            for b, (answer, weight) in enumerate(zip(row.answers, row.weights, strict=True), 1):
                fed = len(answer) - 1
                input_ids[r, at : at + fed] = torch.tensor(answer[:-1], dtype=torch.long)
                positions[r, at : at + fed] = len(row.prompt) + torch.arange(fed)
                branch_of[r, at : at + fed] = b
                # An answer's first token is predicted where the prompt ends, each other one where the last was fed.
                places = [end_of_prompt, *range(at, at + fed)]
                labels += [(r, place, token, answers, rows) for place, token in zip(places, answer, strict=True)]
                weights += [weight] * len(answer)
                at, answers = at + fed, answers + 1
            rows += 1
    line_, place, target, answer_, prompt = torch.tensor(labels).unbind(1)
    mask = _mask(row_of, branch_of, dtype)
    return Batch(input_ids, positions, mask, line_, place, target, answer_, torch.tensor(weights), prompt)


def seen(model: Any, batch: Batch) -> Tensor | dict[str, Tensor]:
    """What each token may look at, as the model's decoder takes it: no further back than its windows reach."""
    return masks(model, batch.mask, batch.positions)


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
    total = torch.zeros(int(batch.answer[-1]) + 1, dtype=logprobs.dtype, device=logprobs.device)
    return total.index_add(0, batch.answer, logprobs)


def _mask(row: Tensor, branch: Tensor, dtype: torch.dtype) -> Tensor:
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_row = row[:, :, None] == row[:, None, :]
    same_branch = branch[:, :, None] == branch[:, None, :]
    allowed = causal & same_row & (same_branch | (branch == 0)[:, None, :])
    # Padding must see something, or its softmax would be over nothing.
    allowed |= torch.eye(length, dtype=torch.bool)
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
