"""Answers to chats by continuous batching: one base, an adapter per row, one decode loop that chats join and leave."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cp_ray.errors import ConfigError
from cp_ray.llm.embedded import load_base
from cp_ray.packed_linear import pack
from cp_ray.serving.adapters import Adapters
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, Load, Piece, whole
from cp_ray.serving.decoder import last_logits, together, use_slots
from cp_ray.serving.drawing import advance
from cp_ray.serving.prefix import PrefixCache, RowState
from cp_ray.serving.rows import Prepare, Row, end_tokens
from cp_ray.serving.slots import Slots
from cp_ray.serving.turns import Turns
from cp_ray.serving.waiting import Waiting

__all__ = ["Engine"]

_PREFIX_BYTES = 2**31
"""Kept for chats that go on: 46,000 tokens of the embedded model in float32."""

_ALONE_TOKENS, _BESIDE_TOKENS, _SHARED_TOKENS = 2_048, 512, 256
"""Prompt tokens computed in one step where nobody is being answered, beside answers that are to go on, and where
another tenant may come that is first: it waits for the step to end."""

_EVEN_TOKENS = 16
"""Passes with prompts are padded to whole multiples: a CPU's products are compiled for each length, in 10 ms."""

_ANSWER_TOKENS = 128
"""That an answer is expected to have at most, when a chat is given its room."""


class Engine:
    """One base model and its adapters, ready to answer.

    `add` and `cancel` may be called by any thread between two steps, `prepare` at any time; `step` by one.
    """

    def __init__(
        self,
        base: str,
        adapters: Mapping[str, Path | None],
        *,
        device: str = "cpu",
        dtype: str | None = None,
        prefix_bytes: int = _PREFIX_BYTES,
        max_rows: int = 32,
        max_tokens: int = 65_536,
        max_adapters: int = 64,
    ) -> None:
        """Load the base and put the adapters on it.

        Args:
            base: as in `cp_ray.llm.embedded.resolve_base`.
            adapters: PEFT folders by the model name that requests use; None is the bare base.
            device: `cpu`, `cuda` or `cuda:0`.
            dtype: `float32` or `bfloat16`; None for the faster one, as in `cp_ray.llm.embedded.compute_dtype`.
            prefix_bytes: memory for the keys and values of chats that may go on; 0 keeps none.
            max_rows: chats answered together at most.
            max_tokens: that the cache of keys and values may hold, an answer counting in full from its beginning.
                A chat that needs more is answered alone.
            max_adapters: on the base at once; the one used longest ago leaves for another.

        Raises:
            BaseModelError: the base or an adapter cannot be loaded.
            PlacementError: the base does not fit the GPU.
            ConfigError: a limit is below 1.
        """
        for name, limit in (("max_rows", max_rows), ("max_tokens", max_tokens), ("max_adapters", max_adapters)):
            if limit < 1:
                raise ConfigError(f"{name}: must be at least 1, got {limit}")
        self._model, self._tokenizer = load_base(
            base, device=device, dtype=getattr(torch, dtype) if dtype else None, draws=True
        )
        use_slots(self._model)
        pack(self._model, together(self._model))
        self.adapters = Adapters(self._model, adapters, max_adapters)
        self._device = device
        config = self._model.config.get_text_config(decoder=True)
        self.context: int = config.max_position_embeddings
        """Tokens of a prompt and its answer together."""
        self._prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        self._ends = end_tokens(self._model.generation_config, self._tokenizer)
        self._prepare = Prepare(self._tokenizer, self.context, config.vocab_size, self._ends)
        self._max_rows, self._max_tokens = max_rows, max_tokens
        self._reset()

    def _reset(self) -> None:
        self._waiting: Waiting[Row] = Waiting()
        self._turns = Turns()
        self._rows: list[Row] = []
        self._admitted = itertools.count()
        self._slots = Slots(self._model.config, self._device, self._model.dtype)
        self.load = Load(0, 0, 0, 0)
        """What it was busy with in the last step."""

    def prepare(self, request: ChatRequest) -> Row:
        """A request, ready to be added.

        Raises:
            BadRequest: it cannot be answered.
        """
        row = self._prepare(request)
        row.fetched = self.adapters.fetch(request.model)
        return row

    def add(self, row: Row) -> None:
        """Queue a row; its pieces go to its `deliver`."""
        self._waiting.push(row)

    def cancel(self, row: Row) -> None:
        """Nobody waits for this row any more: nothing is computed for it from the next step on."""
        row.cancelled = True
        self._waiting.remove(row)

    def generate(self, requests: Sequence[ChatRequest]) -> list[ChatResult | BadRequest]:
        """Answer many chats together.

        What is wrong with one request is its own result and leaves the others alone. An answer does not depend on
        its neighbours, to float tolerance: in bfloat16 that may be another word.

        Returns:
            One result for each request, in their order.
        """
        told: list[list[Piece | BadRequest]] = [[] for _ in requests]
        for request, into in zip(requests, told, strict=True):
            try:
                row = self.prepare(request)
            except BadRequest as error:
                into.append(error)
                continue
            row.deliver = _into(into)
            self.add(row)
        while self.step():
            pass
        return [_result(one) for one in told]

    def fail(self, error: BaseException) -> None:
        """Give up all rows, after a step that raised `error`."""
        rows = [*self._rows, *self._waiting.drain()]
        self._reset()
        for row in rows:
            row.deliver(error)

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit who fits, compute a piece of the prompts, draw a token for every row: whether there is more to do.

        Where tenants ask for different amounts, that is done for those whose turn it is.
        """
        self._drop_cancelled()
        self._turns.begin(Counter(row.tenant for row in self._rows) + self._waiting.count())
        self._admit()
        if not any(map(self._turns.goes, self._rows)):
            # There is no room for those who are first: the others go on and make it; nobody is admitted meanwhile.
            self._turns.all_go({row.tenant for row in self._rows})
        self.load = self._load()  # told to those who ask during a long step
        fed = self._fed()
        if fed:
            self._pass(fed)
        self._turns.end([*self._rows, *self._waiting])
        self.load = self._load()
        return bool(self._rows or self._waiting)

    def _fed(self) -> dict[int, int]:
        """How many tokens of each slot's chat are computed in this step: prompts in the order in which they came."""
        rows, turns = self._rows, self._turns
        going = sorted((s for s in range(len(rows)) if turns.goes(rows[s])), key=lambda s: not turns.leads(rows[s]))
        going = going[: self._max_rows]
        left = {slot: self._left(slot) for slot in going}
        fed = {slot: 1 for slot in going if left[slot] == 1}
        prompts = sorted((slot for slot in going if left[slot] > 1), key=lambda slot: rows[slot].admitted)
        leading = [slot for slot in prompts if turns.leads(rows[slot])]
        most = _BESIDE_TOKENS if fed else _ALONE_TOKENS
        room = min(most, _SHARED_TOKENS) if turns.shared else most
        for slot in leading or prompts:
            if room:
                fed[slot] = min(left[slot], room)
                room -= fed[slot]
        return fed

    def _left(self, slot: int) -> int:
        """Tokens of a slot's chat that are not in the cache."""
        row = self._rows[slot]
        return len(row.prompt) + len(row.drawn) - self._slots.lengths[slot]

    def _load(self) -> Load:
        models = {row.model for row in self._rows}
        return Load(len(self._rows), len(models), len(self._waiting), sum(self._slots.lengths))

    def _drop_cancelled(self) -> None:
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].cancelled:
                self._leave(slot)

    def _admit(self) -> None:
        """Those whose turn it is, as long as they fit."""
        if any(self._left(slot) > 1 and self._turns.leads(row) for slot, row in enumerate(self._rows)):
            return
        while (row := self._waiting.peek(self._turns.goes)) is not None and self._fits(row):
            self._waiting.pop(self._turns.goes)
            past = self._prefixes.find(row.tenant, row.model, row.prompt) if self._prefixes else None
            row.cached = past.tokens if past else 0
            self._slots.append(past, len(row.prompt) + min(row.limit, _ANSWER_TOKENS))
            row.admitted = next(self._admitted)
            self._rows.append(row)

    def _fits(self, row: Row) -> bool:
        there = self._rows
        if not self.adapters.make_room(row.model, row.fetched, {r.model for r in there}):
            return False
        row.fetched = None
        tokens = row.cost + sum(r.cost for r in there)
        # Those that are held back stay where they are, and who leads does not wait for those that are not any more.
        together = sum(map(self._turns.leads if self._turns.leads(row) else self._turns.goes, there))
        return not there or (together < self._max_rows and tokens <= self._max_tokens)

    def _pass(self, fed: Mapping[int, int]) -> None:
        """Compute the next tokens of chats, and draw one for each whose prompt is done; those that have ended leave."""
        # Prompts of a model next to each other: what its adapter adds is computed at once.
        slots = sorted(fed, key=lambda slot: (self._rows[slot].model, slot))
        counts = [fed[slot] for slot in slots]
        done = {slot for slot in slots if fed[slot] == self._left(slot)}
        ids = [self._rows[slot].tokens(self._slots.lengths[slot], fed[slot]) for slot in slots]
        order, positions = self._slots.begin(slots, counts)
        slots, ids, counts = [slots[k] for k in order], [ids[k] for k in order], [counts[k] for k in order]
        ends = list(itertools.accumulate(counts))
        drawn = [k for k, slot in enumerate(slots) if slot in done]
        rows = [self._rows[slot] for slot in slots]
        with self.adapters.rows([row.model for row in rows], counts):
            logits = self._logits([id for own in ids for id in own], positions, [ends[k] - 1 for k in drawn])
        if drawn:
            self._draw([rows[k] for k in drawn], logits)
        for slot in sorted(done, reverse=True):
            if reason := self._rows[slot].finish_reason:
                if reason != "error":
                    self._remember(self._rows[slot], self._slots.state(slot))
                self._leave(slot)

    def _logits(self, ids: list[int], positions: Tensor, last: list[int]) -> Tensor:
        """Append tokens to the cache, one chat's behind the other's: [last, vocabulary], after the tokens there."""
        padding = -len(ids) % _EVEN_TOKENS if len(ids) > self._max_rows else 0
        padded = torch.tensor(ids + padding * [self._tokenizer.pad_token_id], device=self._device)
        after = torch.tensor(last, device=self._device, dtype=torch.long)
        return last_logits(self._model, padded, torch.nn.functional.pad(positions, (0, padding)), after, self._slots)

    def _leave(self, slot: int) -> None:
        # Of one that was cut off it is not known what its model came to.
        self._slots.remove(slot, clean=self._rows[slot].finish_reason not in ("", "error"))
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _draw(self, rows: list[Row], logits: Tensor) -> None:
        advance(rows, logits, self._tokenizer, self._ends)

    def _remember(self, row: Row, state: RowState) -> None:
        """Keep the state of a row that has ended."""
        if self._prefixes is not None:
            # The last token drawn was never fed to the model.
            self._prefixes.put(row.tenant, row.model, row.ids[: state.tokens], state)


def _into(told: list[Piece | BadRequest]) -> Callable[[Piece | BaseException], None]:
    def deliver(piece: Piece | BaseException) -> None:
        if not isinstance(piece, Piece | BadRequest):
            raise piece
        told.append(piece)

    return deliver


def _result(told: list[Piece | BadRequest]) -> ChatResult | BadRequest:
    pieces = [piece for piece in told if isinstance(piece, Piece)]
    last = told[-1]
    return last if isinstance(last, BadRequest) else whole(pieces)
