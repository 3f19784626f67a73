"""Answers to waves of chats: one base, an adapter per row, one decode loop."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cp_ray.llm.embedded import load_base
from cp_ray.lora import StackedLora
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, ContextTooLong
from cp_ray.serving.prefix import PrefixCache, RowState, stack, unstack
from cp_ray.serving.sampling import draw, uniform

__all__ = ["Engine"]

_PREFIX_BYTES = 2**31
"""Kept for chats that go on: 46,000 tokens of the embedded model in float32."""

_GROUP_TOKENS = 2_048
"""Prompt tokens computed in one pass, padding included, unless a single prompt has more."""


@dataclass(slots=True, eq=False)
class _Row:
    """A request on its way through a wave."""

    request: ChatRequest
    adapter: str | None
    prompt: list[int]
    digest: bytes
    limit: int
    """Tokens that may be drawn."""
    past: RowState | None
    """What the prefix cache knows of the prompt."""
    drawn: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""

    @property
    def fresh(self) -> list[int]:
        """The part of the prompt that is still to be computed."""
        return self.prompt[self.past.tokens if self.past else 0 :]


class Engine:
    """One base model and its adapters, ready to answer."""

    def __init__(
        self,
        base: str,
        adapters: Mapping[str, Path | None],
        *,
        threads: int | None = None,
        device: str = "cpu",
        prefix_bytes: int = _PREFIX_BYTES,
    ) -> None:
        """Load the base and put the adapters on it.

        Args:
            base: as in `cp_ray.llm.embedded.resolve_base`.
            adapters: PEFT folders by the model name that requests use; None is the bare base.
            threads: CPU threads of this process; None leaves torch's choice.
            device: `cpu`, `cuda` or `cuda:0`.
            prefix_bytes: memory for the keys and values of chats that may go on; 0 keeps none.

        Raises:
            BaseModelError: the base or an adapter cannot be loaded.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._model, self._tokenizer = load_base(base, device=device)
        folders = {name: folder for name, folder in adapters.items() if folder is not None}
        self._lora = StackedLora(self._model, folders)
        self._adapters = {name: name if folder else None for name, folder in adapters.items()}
        self._device = device
        config = self._model.config
        self.context: int = config.max_position_embeddings
        """Tokens of a prompt and its answer together."""
        # Padding between a known beginning and the rest would shift a window over positions.
        windowed = bool(getattr(config, "sliding_window", None))
        self._prefixes = PrefixCache(prefix_bytes) if prefix_bytes and not windowed else None
        self._ends = _end_tokens(self._model, self._tokenizer)

    def generate(self, requests: Sequence[ChatRequest]) -> list[ChatResult | BadRequest]:
        """Answer many chats together.

        What is wrong with one request is its own result and leaves the others alone. An answer does not depend on
        its neighbours, to float tolerance.

        Returns:
            One result for each request, in their order.
        """
        prepared = [self._prepare(request) for request in requests]
        rows = [row for row in prepared if isinstance(row, _Row)]
        with torch.inference_mode():
            if rows:
                self._decode(rows)
        return [_result(row) if isinstance(row, _Row) else row for row in prepared]

    def _prepare(self, request: ChatRequest) -> _Row | BadRequest:
        from jinja2 import TemplateError

        if request.model not in self._adapters:
            return BadRequest(f"model: {request.model!r} is not served; known: {', '.join(self._adapters)}")
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        try:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            return BadRequest(f"messages: the model's chat template does not take them ({error})")
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        room = self.context - len(ids)
        if room < 1:
            return ContextTooLong(f"messages: {len(ids)} tokens do not fit the model's context of {self.context}")
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        past = self._prefixes.find(request.model, ids) if self._prefixes else None
        limit = min(request.max_tokens, room)
        return _Row(request, self._adapters[request.model], ids, digest, limit, past)

    def _decode(self, rows: list[_Row]) -> None:
        """Draw tokens for all rows at once; a row that has ended leaves the batch."""
        cache, mask, logits = self._start(rows)
        while True:
            self._draw(rows, logits)
            going = [i for i, row in enumerate(rows) if not row.finish_reason]
            if len(going) < len(rows):
                self._remember(rows, cache, mask)
                if not going:
                    return
                rows, mask = [rows[i] for i in going], mask[going]
                cache.batch_select_indices(torch.tensor(going, device=self._device))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(rows, [row.drawn[-1:] for row in rows], mask, cache)

    def _start(self, rows: list[_Row]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Compute the prompts, rows of like length together: the cache, its mask and the first logits of all rows."""
        states: dict[int, RowState] = {}
        logits: dict[int, Tensor] = {}
        for group in _groups(rows):
            cache, mask = stack([row.past for row in group])
            fresh = [row.fresh for row in group]
            mask = torch.cat([mask, _mask([len(ids) for ids in fresh])], dim=1)
            last = self._forward(group, fresh, mask, cache)
            if len(group) == len(rows):
                order = [group.index(row) for row in rows]
                cache.batch_select_indices(torch.tensor(order, device=self._device))
                return cache, mask[order], last[order]
            for i, row in enumerate(group):
                states[id(row)], logits[id(row)] = unstack(cache, mask, i), last[i]
        cache, mask = stack([states[id(row)] for row in rows])
        return cache, mask, torch.stack([logits[id(row)] for row in rows])

    def _forward(self, rows: list[_Row], ids: list[list[int]], mask: Tensor, cache: DynamicCache) -> Tensor:
        """Append tokens to the cache: the logits [rows, vocabulary] after the last ones."""
        longest = max(len(i) for i in ids)
        pad = self._tokenizer.pad_token_id
        padded = torch.tensor([[pad] * (longest - len(i)) + i for i in ids])
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -longest:]
        with self._lora.rows([row.adapter for row in rows]):
            logits: Tensor = self._model(
                input_ids=padded.to(self._device),
                attention_mask=mask.to(self._device),
                position_ids=positions.to(self._device),
                past_key_values=cache,
                logits_to_keep=1,
            ).logits
        return logits[:, -1]

    def _draw(self, rows: list[_Row], logits: Tensor) -> None:
        requests = [row.request for row in rows]
        uniforms = [uniform(row.request.seed, row.digest, len(row.drawn)) for row in rows]
        tokens = draw(logits, [r.temperature for r in requests], [r.top_p for r in requests], uniforms).tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.drawn.append(token)
            self._finish(row)

    def _finish(self, row: _Row) -> None:
        """Set the text and the reason if the row has ended."""
        ended = row.drawn[-1] in self._ends
        full = len(row.drawn) >= row.limit
        if not (ended or full or row.request.stop):
            return
        text: str = self._tokenizer.decode(row.drawn[:-1] if ended else row.drawn, skip_special_tokens=True)
        cuts = [at for stop in row.request.stop if (at := text.find(stop)) >= 0]
        if cuts or ended or full:
            row.text = text[: min(cuts)] if cuts else text
            row.finish_reason = "stop" if cuts or ended else "length"

    def _remember(self, rows: list[_Row], cache: DynamicCache, mask: Tensor) -> None:
        """Keep the states of the rows that have ended."""
        if self._prefixes is None:
            return
        for i, row in enumerate(rows):
            if row.finish_reason:
                state = unstack(cache, mask, i)
                # The last token drawn was never fed to the model.
                self._prefixes.put(row.request.model, (row.prompt + row.drawn)[: state.tokens], state)


def _groups(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Rows whose uncomputed parts are of like length, so that a quarter of a group at most is padding."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda r: len(r.fresh)):
        size = len(row.fresh)
        if group and (4 * len(group[0].fresh) < 3 * size or (len(group) + 1) * size > _GROUP_TOKENS):
            yield group
            group = []
        group.append(row)
    yield group


def _mask(lengths: Sequence[int]) -> Tensor:
    """[rows, longest], 1 where a row padded on the left has a token."""
    longest = max(lengths)
    return (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    configured: int | list[int] | None = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {i for i in [*several, tokenizer.eos_token_id] if i is not None}


def _result(row: _Row) -> ChatResult:
    return ChatResult(row.text, row.finish_reason, len(row.prompt), len(row.drawn))
