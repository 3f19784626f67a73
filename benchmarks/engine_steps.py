"""Steps a second of the engine: with its weights as they are stored, packed, and packed on a heap of huge pages.

    python -m benchmarks.engine_steps [--batches 1,4,16] [--threads 1] [--rounds 3] [--dtype float32]

On that heap also with the layers computed by transformers and not by `cp_ray.serving.decoder`. A step draws a token for
each chat of a batch. All run in processes of their own, in turns, and the best round of each counts; where the weights
alone differ the answers must be the same, and rounding may tell those of transformers apart.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import torch

from benchmarks.results import append
from cp_ray.packed_linear import HUGE_PAGES, can_pack
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult
from cp_ray.serving.engine import Engine

_STEPS = 32
_STORED, _PLAIN = "stored", "by transformers"
_WAYS: dict[str, dict[str, str]] = {_STORED: {}, "packed": {}, "huge pages": HUGE_PAGES, _PLAIN: HUGE_PAGES}


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batches.split(",")]
    if args.way:
        print(json.dumps(measure(args.way, batches, args.threads, args.dtype)))
        return
    if not can_pack(getattr(torch, args.dtype)):
        raise SystemExit(f"oneDNN does not multiply {args.dtype} on this CPU, so nothing is packed")
    rounds = [{way: _in_a_process(way) for way in _WAYS} for _ in range(args.rounds)]
    rows = []
    print(f"{'batch':>6}" + "".join(f"{way:>20}" for way in _WAYS) + "  same answers")
    for k, batch in enumerate(batches):
        speeds = {way: max(one[way][k]["steps_per_s"] for one in rounds) for way in _WAYS}
        packed = (found for one in rounds for way, found in one.items() if way != _PLAIN)
        same = len({json.dumps(found[k]["answers"]) for found in packed}) == 1
        told = "".join(f"{speed:>12.1f} ({speed / speeds[_STORED]:.2f}x)" for speed in speeds.values())
        print(f"{batch:>6}{told}  {same}", flush=True)
        rows.append({"batch": batch, "steps_per_s": speeds, "same": same})
    settings = {"batches": batches, "threads": args.threads, "rounds": args.rounds, "dtype": args.dtype}
    append("engine_steps", {"settings": settings, "rows": rows})


def measure(way: str, batches: list[int], threads: int, dtype: str) -> list[dict[str, Any]]:
    """In a process of its own: for each batch the steps a second after the first, and the answers."""
    torch.set_num_threads(threads)
    with contextlib.ExitStack() as changed:
        if way == _STORED:
            changed.enter_context(mock.patch("cp_ray.serving.engine.pack"))
        if way == _PLAIN:
            changed.enter_context(mock.patch("cp_ray.serving.decoder._ALIKE", ()))
        return _measured(batches, dtype)


def _measured(batches: list[int], dtype: str) -> list[dict[str, Any]]:
    engine = Engine("smollm2", {"base": None}, dtype=dtype, prefix_bytes=0)
    _answers(engine, 1, 4)
    found = []
    for batch in batches:
        began = time.perf_counter()
        _answers(engine, batch, 1)
        first = time.perf_counter()
        answers = _answers(engine, batch, _STEPS + 1)
        seconds = time.perf_counter() - first - (first - began)
        found.append({"steps_per_s": round(_STEPS / seconds, 2), "answers": answers})
    return found


def _in_a_process(way: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.engine_steps", *sys.argv[1:], "--way", way]
    environment = os.environ | _WAYS[way]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: list[dict[str, Any]] = json.loads(out.strip().splitlines()[-1])
    return found


def _answers(engine: Engine, batch: int, tokens: int) -> list[str]:
    asked = [
        ChatRequest("base", (Message("user", f"{k} Tell me about a town by the sea."),), 0.7, tokens, seed=k)
        for k in range(batch)
    ]
    return [answer.text for answer in engine.generate(asked) if isinstance(answer, ChatResult)]


if __name__ == "__main__":
    main()
