"""What a run asked its teachers: a table by step and model, or the last calls as text."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence

from cp_ray.errors import ConfigError
from cp_ray.llm.ledger import Entry, LedgerTotals, entries, summary
from cp_ray.pipeline import Run

__all__ = ["last_calls", "totals"]


def totals(root: str, *, as_json: bool = False) -> Iterator[str]:
    """Lines on what each step paid for and what failed.

    Raises:
        ConfigError: the run has made no calls.
    """
    found = _found(root)
    if as_json:
        yield from (json.dumps(_plain(line)) for line in found)
        return
    yield f"{'step':<14}{'model':<22}{'answers':>9}{'prompt':>13}{'answer':>12}{'USD':>10}{'mean s':>8}  failed tries"
    for line in found:
        yield _line(line)
    if len(found) > 1:
        yield _line(_sum(found))


def last_calls(root: str, n: int) -> Iterator[str]:
    """The last `n` answers as text, a line of facts and a line of the answer each.

    Raises:
        ConfigError: the run has made no calls.
    """
    _found(root)
    newest: deque[Entry] = deque(sorted(entries(root), key=lambda e: e.time)[-n:])
    for entry in newest:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        yield (
            f"{when}  {entry.step}  {entry.model}  {entry.seconds:.1f} s, {entry.prompt_tokens} + "
            f"{entry.completion_tokens} tokens, {entry.usd:.6f} USD, {entry.finish_reason}"
        )
        yield f"    {' '.join(entry.text.split())[:160]}"


def _found(root: str) -> list[LedgerTotals]:
    Run(root, "run")  # tells if the folder is something else
    found = summary(root)
    if not found:
        raise ConfigError(f"run: {root!r} has made no calls; run a recipe with --root {root} first")
    return found


def _line(of: LedgerTotals) -> str:
    failed = ", ".join(f"{n:,} {kind}" for kind, n in of.failures.most_common())
    mean = f"{of.seconds / of.calls:8.2f}" if of.calls else f"{'-':>8}"
    return (
        f"{of.step:<14}{of.model:<22}{of.calls:>9,}{of.prompt_tokens:>13,}{of.completion_tokens:>12,}{of.usd:>10.4f}"
        f"{mean}  {failed}"
    ).rstrip()


def _sum(found: Sequence[LedgerTotals]) -> LedgerTotals:
    whole = LedgerTotals("in all", "")
    for line in found:
        whole.calls += line.calls
        whole.prompt_tokens += line.prompt_tokens
        whole.completion_tokens += line.completion_tokens
        whole.usd += line.usd
        whole.seconds += line.seconds
        whole.failures.update(line.failures)
    return whole


def _plain(line: LedgerTotals) -> dict[str, object]:
    return {
        "step": line.step, "model": line.model, "answers": line.calls, "prompt_tokens": line.prompt_tokens,
        "completion_tokens": line.completion_tokens, "usd": round(line.usd, 6), "seconds": round(line.seconds, 1),
        "failed_tries": dict(line.failures),
    }  # fmt: skip
