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

from cp_ray.errors import BaseModelError
from cp_ray.records import Message

__all__ = ["Batch", "Branches", "answer_logprobs", "collate", "encode", "hidden_states", "token_logprobs"]


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
    """Several `Branches` as tensors, padded on the right; and for every answer token where it is predicted."""

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

    def to(self, device: Any) -> "Batch":
        """The same on another device."""
        return Batch(*(getattr(self, name).to(device) for name in Batch.__slots__))


def encode(tokenizer: Any, messages: Sequence[Message], answers: Sequence[tuple[str, float]]) -> Branches:
    """A chat's prompt and the answers to it, by the model's own chat template.

    Rendering the chat with and without the answer shows which tokens are the assistant's, whatever the template.
    What a template puts behind the end of the turn (SmolLM2: a line break) is not part of the answer.

    Raises:
        BaseModelError: the template changes the prompt when an answer follows, so that no tokens can be told to be
            the assistant's.
    """
    chat = [{"role": m.role, "content": m.content} for m in messages]
    prompt = _render(tokenizer, chat, add_generation_prompt=True)
    branches = []
    for text, _ in answers:
        whole = _render(tokenizer, [*chat, {"role": "assistant", "content": text}], add_generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            raise BaseModelError(
                "base model: its chat template renders a prompt differently once an answer follows, so the answer's "
                "tokens cannot be told apart; use a model whose template does not"
            )
        branches.append(_up_to_end_of_turn(tokenizer, whole[len(prompt) :]))
    return Branches(tuple(prompt), tuple(branches), tuple(weight for _, weight in answers))


def collate(rows: Sequence[Branches], pad_id: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Rows as one batch."""
    length = max(row.tokens for row in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branch = torch.full((len(rows), length), -1)
    labels: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    answers = 0
    for r, row in enumerate(rows):
        at = len(row.prompt)
        input_ids[r, :at] = torch.tensor(row.prompt)
        positions[r, :at] = torch.arange(at)
        branch[r, :at] = 0
        for b, (answer, weight) in enumerate(zip(row.answers, row.weights, strict=True), 1):
            fed = len(answer) - 1
            input_ids[r, at : at + fed] = torch.tensor(answer[:-1], dtype=torch.long)
            positions[r, at : at + fed] = len(row.prompt) + torch.arange(fed)
            branch[r, at : at + fed] = b
            # An answer's first token is predicted where the prompt ends, each other one where the last was fed.
            places = [len(row.prompt) - 1, *range(at, at + fed)]
            labels += [(r, place, token, answers) for place, token in zip(places, answer, strict=True)]
            weights += [weight] * len(answer)
            at, answers = at + fed, answers + 1
    row_, place, target, answer_ = torch.tensor(labels).unbind(1)
    return Batch(input_ids, positions, _mask(branch, dtype), row_, place, target, answer_, torch.tensor(weights))


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [b, t, d] of a transformers causal language model."""
    decoder = model.get_decoder()
    states: Tensor = decoder(
        input_ids=batch.input_ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    return states


def token_logprobs(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-probability [n] of every answer token; the vocabulary is computed at these places only."""
    logits = model.get_output_embeddings()(hidden[batch.row, batch.place]).float()
    return torch.log_softmax(logits, dim=-1).gather(1, batch.target[:, None])[:, 0]


def answer_logprobs(logprobs: Tensor, batch: Batch) -> Tensor:
    """Log-probability of every answer of the batch, in order."""
    total = torch.zeros(int(batch.answer[-1]) + 1, dtype=logprobs.dtype, device=logprobs.device)
    return total.index_add(0, batch.answer, logprobs)


def _render(tokenizer: Any, chat: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _up_to_end_of_turn(tokenizer: Any, ids: list[int]) -> tuple[int, ...]:
    """`ids` without what follows the last special token, the one that ends the turn."""
    special = set(tokenizer.all_special_ids)
    ends = [k for k, id in enumerate(ids) if id in special]
    if not ends:
        raise BaseModelError(
            "base model: its chat template puts no end-of-turn token behind an answer, so a model trained on it would "
            "never stop; use a model whose template does"
        )
    return tuple(ids[: ends[-1] + 1])


def _mask(branch: Tensor, dtype: torch.dtype) -> Tensor:
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    allowed = causal & (same | (branch == 0)[:, None, :])
    # Padding must see something, or its softmax would be over nothing.
    allowed |= torch.eye(length, dtype=torch.bool)
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
