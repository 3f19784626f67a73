"""Steps a second of the engine with its 16-bit weights packed, and as they are stored.

    python -m benchmarks.packed_weights [--batches 1,4,16] [--threads 1] [--rounds 3]

A step draws a token for each chat of a batch; both ways take turns, and the best round of each counts. Besides, whether
they draw the same tokens.
"""

import argparse
import time
from unittest import mock

from benchmarks.results import append
from cp_ray.packed_linear import can_pack
from cp_ray.records import Message
from cp_ray.serving.chat import ChatRequest, ChatResult
from cp_ray.serving.engine import Engine

_STEPS = 32


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not can_pack():
        raise SystemExit("oneDNN does not multiply bfloat16 on this CPU, so nothing is packed")
    packed = _engine(args.threads)
    with mock.patch("cp_ray.serving.engine.pack"):
        plain = _engine(args.threads)
    print(f"{'batch':>6}{'packed':>10}{'plain':>10}{'times':>8}  same tokens")
    rows = []
    for batch in map(int, args.batches.split(",")):
        told = [[_measured(engine, batch) for engine in (packed, plain)] for _ in range(args.rounds)]
        ours, theirs = (max(speed for speed, _ in column) for column in zip(*told, strict=True))
        same = told[0][0][1] == told[0][1][1]
        print(f"{batch:>6}{ours:>10.1f}{theirs:>10.1f}{ours / theirs:>8.2f}  {same}", flush=True)
        rows.append({"batch": batch, "packed": round(ours, 2), "plain": round(theirs, 2), "same": same})
    append("packed_weights", {"settings": vars(args), "rows": rows})


def _engine(threads: int) -> Engine:
    made = Engine("smollm2", {"base": None}, threads=threads, dtype="bfloat16", prefix_bytes=0)
    _measured(made, 1)
    return made


def _measured(engine: Engine, batch: int) -> tuple[float, list[str]]:
    """Steps a second after the first, and the answers."""
    began = time.perf_counter()
    _answers(engine, batch, 1)
    first = time.perf_counter()
    answers = _answers(engine, batch, _STEPS + 1)
    return _STEPS / (time.perf_counter() - first - (first - began)), answers


def _answers(engine: Engine, batch: int, tokens: int) -> list[str]:
    asked = [
        ChatRequest("base", (Message("user", f"{k} Tell me about a town by the sea."),), 0.7, tokens, seed=k)
        for k in range(batch)
    ]
    return [answer.text for answer in engine.generate(asked) if isinstance(answer, ChatResult)]


if __name__ == "__main__":
    main()
