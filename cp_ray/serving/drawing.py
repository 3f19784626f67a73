"""The next token of every row, and what becomes of the row with it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_ray.serving.chat import BadRequest, Piece, TokenLogprob
from cp_ray.serving.rows import Row
from cp_ray.serving.sampling import draw, uniform

__all__ = ["advance"]


def advance(rows: Sequence[Row], logits: Tensor, tokenizer: Any, ends: set[int]) -> None:
    """Draw a token for each row and deliver what it brings; rows that have ended get their `finish_reason`.

    Args:
        rows: those of the batch.
        logits: [rows, vocabulary], after each row's last token; changed in place.
        tokenizer: the model's.
        ends: tokens that end an answer.
    """
    asked = [row.request for row in rows]
    told = [i for i, row in enumerate(rows) if row.labels or row.request.logprobs is not None]
    logprobs = dict(zip(told, torch.log_softmax(logits[told].float(), dim=-1), strict=True)) if told else {}
    finite = logits.amax(-1).isfinite().tolist()
    for i, row in enumerate(rows):
        if row.guide is not None:
            row.guide.restrict(logits[i])
    uniforms = [uniform(row.request.seed, row.digest, len(row.drawn)) for row in rows]
    tokens = draw(logits, [r.temperature for r in asked], [r.top_p for r in asked], uniforms).tolist()
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if not finite[i]:
            _fail(row, f"model: {row.model!r} has come to numbers that are not finite; ask another, or load it anew")
            continue
        if row.labels:
            _finish(row, "", "stop", labels=tuple(logprobs[i][list(row.labels)].tolist()))
            continue
        if i in logprobs:
            row.logprobs.append(_logprob(tokenizer, token, logprobs[i], row.request.logprobs or 0))
        _take(row, token, ends)


def _take(row: Row, token: int, ends: set[int]) -> None:
    """Add a token to a row."""
    row.drawn.append(token)
    complete = row.guide.follow(token) if row.guide is not None else False
    if row.guide is not None and row.guide.fault:
        _fail(row, f"response_format: the answer cannot go on by this schema ({row.guide.fault})")
        return
    ended = complete or token in ends
    full = len(row.drawn) >= row.limit
    text = "" if token in ends else row.writer.push(token)
    if ended or full:
        text += row.writer.end()
    if ended or full or row.writer.stopped:
        _finish(row, text, "stop" if ended or row.writer.stopped else "length")
    elif text or row.logprobs:
        row.deliver(Piece(text, "", len(row.prompt), len(row.drawn), row.cached, _told(row)))


def _finish(row: Row, text: str, reason: str, labels: tuple[float, ...] = ()) -> None:
    row.finish_reason = reason
    row.deliver(Piece(text, reason, len(row.prompt), len(row.drawn), row.cached, _told(row), labels))


def _fail(row: Row, why: str) -> None:
    row.finish_reason = "error"
    row.deliver(BadRequest(why))


def _told(row: Row) -> tuple[TokenLogprob, ...]:
    told = tuple(row.logprobs)
    row.logprobs.clear()
    return told


def _logprob(tokenizer: Any, token: int, logprobs: Tensor, top: int) -> TokenLogprob:
    def text(id: int) -> str:
        shown: str = tokenizer.decode([id])
        return shown

    best = logprobs.topk(top) if top else None
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
    return TokenLogprob(text(token), float(logprobs[token]), tuple((text(id), value) for id, value in likeliest))
