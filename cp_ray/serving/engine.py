"""Answers to chats by continuous batching: one base, an adapter per row, one decode loop that chats join and leave."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cp_ray.errors import ConfigError
from cp_ray.llm.embedded import load_base
from cp_ray.packed_linear import pack
from cp_ray.serving.adapters import Adapters
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, Load, Piece, whole
from cp_ray.serving.decoder import last_logits, use_slots
from cp_ray.serving.drawing import advance
from cp_ray.serving.prefill import Group, groups
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
"""Prompts are padded to whole multiples: a CPU's products are compiled for each length that comes, in 10 ms."""


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
            ConfigError: a limit is below 1.
        """
        for name, limit in (("max_rows", max_rows), ("max_tokens", max_tokens), ("max_adapters", max_adapters)):
            if limit < 1:
                raise ConfigError(f"{name}: must be at least 1, got {limit}")
        self._model, self._tokenizer = load_base(base, device=device, dtype=getattr(torch, dtype) if dtype else None)
        use_slots(self._model)
        pack(self._model)
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
        self._groups: deque[Group] = deque()
        self._rows: list[Row] = []
        self._slots = self._new_slots()
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
        rows = [*self._rows, *(row for group in self._groups for row in group.rows), *self._waiting.drain()]
        self._reset()
        for row in rows:
            row.deliver(error)

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit who fits, compute a piece of the prompts, draw a token for every row: whether there is more to do.

        Where tenants ask for different amounts, that is done for those whose turn it is.
        """
        self._drop_cancelled()
        self._turns.begin(Counter(row.tenant for row in self._busy()) + self._waiting.count())
        self._admit()
        if not any(map(self._turns.goes, self._busy())):
            # There is no room for those who are first: the others go on and make it; nobody is admitted meanwhile.
            self._turns.all_go({row.tenant for row in self._busy()})
        self.load = self._load()  # told with answers that end in this step
        going = [group for group in self._groups if any(map(self._turns.goes, group.rows))]
        if going:
            first = next((group for group in going if any(map(self._turns.leads, group.rows))), going[0])
            self._prefill(first, beside=any(map(self._turns.goes, self._rows)))
        rows = self._to_front()
        if rows:
            self._decode(rows)
        self._turns.end([*self._busy(), *self._waiting])
        self.load = self._load()
        return bool(self._rows or self._groups or self._waiting)

    def _busy(self) -> Iterator[Row]:
        yield from self._rows
        for group in self._groups:
            yield from group.rows

    def _to_front(self) -> int:
        """Bring the rows that go into the first slots, who leads first: how many may draw a token in this step."""
        front = 0
        for wanted in (self._turns.leads, self._turns.goes):
            for slot in range(front, len(self._rows)):
                if wanted(self._rows[slot]):
                    if slot != front:
                        self._slots.swap(slot, front)
                        self._rows[slot], self._rows[front] = self._rows[front], self._rows[slot]
                    front += 1
        return min(front, self._max_rows)

    def _load(self) -> Load:
        busy = list(self._busy())
        held = sum(self._slots.lengths) + sum(sum(group.slots.lengths) for group in self._groups)
        return Load(len(busy), len({row.model for row in busy}), len(self._waiting), held)

    def _drop_cancelled(self) -> None:
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].cancelled:
                self._leave(slot)
        for group in list(self._groups):
            for slot in reversed(range(len(group.rows))):
                if group.rows[slot].cancelled:
                    group.slots.remove(slot)
                    last = len(group.rows) - 1
                    group.rows[slot], group.fresh[slot] = group.rows[last], group.fresh[last]
                    del group.rows[last], group.fresh[last]
            if not group.rows:
                self._groups.remove(group)

    def _admit(self) -> None:
        """Those whose turn it is, as long as they fit."""
        if any(self._turns.leads(row) for group in self._groups for row in group.rows):
            return
        chosen: list[tuple[Row, RowState | None]] = []
        while (row := self._waiting.peek(self._turns.goes)) is not None and self._fits(row, [r for r, _ in chosen]):
            self._waiting.pop(self._turns.goes)
            past = self._prefixes.find(row.model, row.prompt) if self._prefixes else None
            row.cached = past.tokens if past else 0
            chosen.append((row, past))
        for pairs in groups(chosen):
            slots = self._new_slots()
            for _, past in pairs:
                slots.append(past)
            rows = [row for row, _ in pairs]
            self._groups.append(Group(rows, slots, [row.prompt[row.cached :] for row in rows]))

    def _fits(self, row: Row, chosen: list[Row]) -> bool:
        there = [*self._busy(), *chosen]
        if not self.adapters.make_room(row.model, row.fetched, {r.model for r in there}):
            return False
        row.fetched = None
        tokens = row.cost + sum(r.cost for r in there)
        # Those that are held back stay where they are, and who leads does not wait for those that are not any more.
        together = sum(map(self._turns.leads if self._turns.leads(row) else self._turns.goes, there))
        return not there or (together < self._max_rows and tokens <= self._max_tokens)

    def _prefill(self, group: Group, *, beside: bool) -> None:
        """Compute the next piece of a group's prompts; when all is computed, its rows join the batch."""
        most = _BESIDE_TOKENS if beside else _ALONE_TOKENS
        piece = group.piece(min(most, _SHARED_TOKENS) if self._turns.shared else most)
        fed, logits = self._forward(group.rows, piece, group.slots)
        if not group.computed(piece):
            return
        self._groups.remove(group)
        self._draw(fed, logits)
        for slot, row in enumerate(group.rows):
            state = group.slots.state(slot)
            if row.finish_reason:
                self._remember(row, state)
            else:
                self._slots.append(state)
                self._rows.append(row)

    def _decode(self, count: int) -> None:
        """Draw a token for each of the first rows; those that have ended leave."""
        rows = self._rows[:count]
        self._draw(*self._forward(rows, [row.drawn[-1:] for row in rows], self._slots))
        for slot in reversed(range(count)):
            if self._rows[slot].finish_reason:
                self._remember(self._rows[slot], self._slots.state(slot))
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        self._slots.remove(slot)
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _forward(self, rows: list[Row], ids: list[list[int]], slots: Slots) -> tuple[list[Row], Tensor]:
        """Append tokens to the cache: the rows in another order, and the logits [rows, vocabulary] after their last."""
        longest = max(len(i) for i in ids)
        if longest > _EVEN_TOKENS:
            longest = -(-longest // _EVEN_TOKENS) * _EVEN_TOKENS
        order, positions = slots.begin([len(i) for i in ids], longest)
        pad, fed = self._tokenizer.pad_token_id, [rows[k] for k in order]
        padded = torch.tensor([[pad] * (longest - len(ids[k])) + ids[k] for k in order], device=self._device)
        with self.adapters.rows([row.model for row in fed]):
            return fed, last_logits(self._model, padded, positions, slots)

    def _draw(self, rows: list[Row], logits: Tensor) -> None:
        advance(rows, logits, self._tokenizer, self._ends, self.load)

    def _remember(self, row: Row, state: RowState) -> None:
        """Keep the state of a row that has ended."""
        if self._prefixes is not None:
            # The last token drawn was never fed to the model.
            self._prefixes.put(row.model, row.ids[: state.tokens], state)

    def _new_slots(self) -> Slots:
        return Slots(self._model.config, self._device, self._model.dtype)


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
