"""A ledger of a million answers: how long it takes to open, in how much memory, and how fast it replays.

    python -m benchmarks.ledger [--answers 1000000]

Requests are made into addresses and looked up as a run does it, in random order.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.results import append
from cp_ray.llm.call import Completion, Sampling, request_key
from cp_ray.records import Message

FILES = 8
TEXT = "That is how people here see it, and most would say the same if they were asked. " * 5


def request(k: int) -> tuple[list[Message], Sampling]:
    """The k-th request."""
    return [Message("system", "You are Hanna, a German woman."), Message("user", f"Question {k}?")], Sampling(
        seed=k % 14
    )


def make(root: Path, answers: int) -> None:
    """Write the ledger as workers would have."""
    (root / "ledger").mkdir()
    for number in range(FILES):
        with (root / "ledger" / f"{number:032x}.jsonl").open("w") as file:
            for k in range(number, answers, FILES):
                key = request_key("m", *request(k))
                file.write(json.dumps({
                    "key": key, "step": "dialogue", "model": "m", "text": f"{k} {TEXT}", "finish_reason": "stop",
                    "prompt_tokens": 100, "completion_tokens": 90, "seconds": 0.3, "time": 0.0, "usd": 0.0,
                }) + "\n")  # fmt: skip


async def replay(root: str, answers: int, wanted: int) -> dict[str, float]:
    """Open and read, in this process."""
    from cp_ray.llm.ledger import Ledger

    process = psutil.Process(os.getpid())
    import numpy  # noqa: F401  (counted with the interpreter, not with the ledger)

    before, began = process.memory_info().rss, time.monotonic()
    ledger = Ledger(root, "dialogue", "m")
    opened, after = time.monotonic() - began, process.memory_info().rss

    async def never() -> Completion:
        raise AssertionError("it was answered before")

    numbers = random.Random(0).sample(range(answers), wanted)
    began = time.monotonic()
    for k in numbers:
        answer, paid = await ledger.get_or_call(request_key("m", *request(k)), never)
        assert not paid
        assert answer.text.startswith(f"{k} ")
    took = time.monotonic() - began
    return {"open_s": opened, "open_mb": (after - before) / 2**20, "replays_per_s": wanted / took}


def main() -> None:
    """Make, measure in a fresh process, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--replays", type=int, default=100_000)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.root:
        print(json.dumps(asyncio.run(replay(given.root, given.answers, given.replays))))
        return
    with tempfile.TemporaryDirectory() as root:
        make(Path(root), given.answers)
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.ledger", "--root", root, "--answers", str(given.answers),
             "--replays", str(given.replays)],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    found = {name: round(value, 2) for name, value in json.loads(ended.stdout).items()}
    for name, target in (("open_s", "under 10"), ("open_mb", "under 1,024"), ("replays_per_s", "at least 20,000")):
        print(f"{name:<16}{found[name]:>12,.2f}   {target}")
    append("ledger", {"answers": given.answers, **found})


if __name__ == "__main__":
    main()
