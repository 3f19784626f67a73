"""Money: what a call costs at most, and who may still spend how much of a run's budget.

A worker reserves the most that a call can cost before the call goes, and tells what it did cost afterwards. The sum of
what is spent, reserved and granted never passes the budget, so neither does the bill.

A worker with calls tells of its money a few times a second. When nothing was heard of it for `SILENT_S`, it has died.
How much of its last grant it had reserved nobody knows, so all that it had reserved or been granted counts as spent.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cp_ray.errors import ConfigError
from cp_ray.records import Message

__all__ = ["NOTHING", "SILENT_S", "Price", "Purse", "Spending", "parse_budget"]

SILENT_S = 60.0
"""Without a word for so long, a worker is taken for dead."""
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in USD per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / _MILLION

    def half(self) -> "Price":
        """What the batch interfaces of OpenAI and Anthropic cost."""
        return Price(self.prompt / 2, self.completion / 2)

    def most(self, messages: Sequence[Message], max_tokens: int) -> float:
        """USD that a call can cost at most: no tokenizer makes more tokens than a text has bytes."""
        return self.cost(sum(len(m.content.encode()) + 16 for m in messages), max_tokens)


@dataclass(frozen=True, slots=True)
class Spending:
    """What a worker tells of its money, in USD; `spent` over its life."""

    spent: float = 0.0
    reserved: float = 0.0
    """For calls under way."""
    next: float = 0.0
    """What the first of the waiting calls can cost; 0 if none waits."""
    wanted: float = 0.0
    """What all waiting calls can cost together."""


NOTHING = Spending()


@dataclass(slots=True)
class Purse:
    """Shares out what is left of a budget."""

    budget: float
    """USD; infinite for none."""
    spent_before: float = 0.0
    seen: float = 0.0
    """The total that a worker was told of; after a restart no less than this is gone."""
    clock: Callable[[], float] = time.monotonic
    _told: dict[str, Spending] = field(default_factory=dict)
    _granted: dict[str, float] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)

    def grant(self, worker: str, told: Spending) -> float:
        """USD that the worker may reserve on top of what it has reserved: for what waits, and as much as is under way.

        All or nothing: a part that would not do for a call is left to the others.
        """
        self._told[worker], self._heard[worker] = told, self.clock()
        self._granted.pop(worker, None)
        if math.isinf(self.budget):
            return math.inf
        free, wanted = self.free(), told.wanted + told.reserved
        if told.next > free or not wanted:
            return 0.0
        part = max(told.next, min(wanted, free / len(self._here())))
        self._granted[worker] = part
        return part

    def settle(self, worker: str) -> None:
        """A worker is done; what it spent stays spent."""
        told = self._told.pop(worker, None)
        self._granted.pop(worker, None)
        self._heard.pop(worker, None)
        self.spent_before += told.spent if told else 0.0

    def free(self) -> float:
        """USD that nobody has spent, reserved or been granted."""
        here = self._here()
        granted = sum(self._granted.get(worker, 0.0) for worker in here)
        return self.budget - self.spent() - sum(t.reserved for t in here.values()) - granted

    def spent(self) -> float:
        """USD that are gone."""
        return max(self.seen, self.spent_before + sum(t.spent for t in self._told.values()) + self.lost())

    def lost(self) -> float:
        """USD of them that the dead had reserved or been granted."""
        dead = self._told.keys() - self._here().keys()
        return sum(self._told[worker].reserved + self._granted.get(worker, 0.0) for worker in dead)

    def used_up(self) -> bool:
        """Does somebody wait whom the rest of the money would not serve, with nothing under way that might be left?"""
        here = self._here()
        waiting = [t.next for t in here.values() if t.next]
        under_way = any(t.reserved > 1e-12 or worker in self._granted for worker, t in here.items())
        return bool(waiting) and not under_way and min(waiting) > self.free()

    def _here(self) -> dict[str, Spending]:
        """What those told who are not taken for dead."""
        since = self.clock() - SILENT_S
        return {worker: told for worker, told in self._told.items() if self._heard[worker] >= since}


def parse_budget(text: str) -> float:
    """USD from `20usd`, `20 USD`, `$20` or `20`.

    Raises:
        ConfigError: it is none of these, or not more than nothing.
    """
    plain = text.strip().lower().removeprefix("$").removesuffix("usd").strip()
    try:
        amount = float(plain)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1e9:
        raise ConfigError(f"budget: must be an amount of money such as 20usd, got {text!r}")
    return amount
