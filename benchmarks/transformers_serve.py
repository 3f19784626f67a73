"""Our server beside `transformers serve`: tokens per second under an open-loop load, within the same p95.

    python -m benchmarks.transformers_serve [--seconds 25] [--servers "ours;sequential;continuous"]

The same base in the same dtype on the same cores, chats of mixed lengths with answers of `--tokens`. Its default
way of serving answers one request alone after the other: how long that takes gives the limit, `--limit` times its p95.
Then the servers are asked at higher and higher rates, whatever becomes of the requests before, each until its p95 is
over it, and then at rates between the last two. They take turns at every rate, since a machine's memory is quicker in
some minutes than in others; each is started for its turn alone, since one that waits is not quite idle.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gateway_overhead import free_port
from benchmarks.results import append
from benchmarks.served import Seen, ask, open_loop, our_server, percentile, session
from cp_ray.llm.embedded import compute_dtype, smollm2
from cp_ray.serving.app import ServeSpec, Settings
from cp_ray.serving.chat import ModelSpec

_STEPS = (0.5, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
"""Rates, as multiples of what one client after the other asks of the sequential server."""
_HALVED = 2
"""Times that what lies between a rate that is carried and one that is not is halved: to a tenth."""
_PEERS = {
    "sequential": [],
    "continuous": ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "1024",
                   "--cb-max-batch-tokens", "512"],
}  # fmt: skip


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25, help="at each rate")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--limit", type=float, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--servers", default="ours;sequential")
    parser.add_argument("--slowest", type=float, default=_STEPS[0], help="multiple of the rate alone to begin at")
    args = parser.parse_args()
    names = args.servers.split(";")
    with transformers_serve("sequential", args.threads) as (url, model):
        alone_s = asyncio.run(alone(url, model, args.tokens))
    limit_s = args.limit * percentile(alone_s, 95)
    rate = len(alone_s) / sum(alone_s)
    print(f"sequential, alone: {rate:.2f} requests/s, p95 {limit_s / args.limit:.2f} s; limit {limit_s:.2f} s")
    found = climb(names, rate, limit_s, args)
    best = {
        name: max((s["tokens_per_s"] for s in steps if s["p95_s"] <= limit_s), default=0.0)
        for name, steps in found.items()
    }
    others = max((speed for name, speed in best.items() if name != "ours"), default=0.0)
    times = round(best["ours"] / others, 2) if "ours" in best and others else None
    print("  ".join(f"{name} {speed:.1f} tokens/s" for name, speed in best.items()), f" ours: {times} times as fast")
    dtype = str(compute_dtype("cpu", draws=True))
    append(
        "transformers_serve",
        {"settings": vars(args), "dtype": dtype, "limit_s": limit_s, "best": best, "times": times, "steps": found},
    )


@contextlib.contextmanager
def server(name: str, threads: int) -> Iterator[tuple[str, str]]:
    """Ours or the peer in one of its ways: its base URL, and the name of its model."""
    if name == "ours":
        with our_server(ServeSpec(str(smollm2()), (ModelSpec("base"),)), Settings(threads=threads)) as url:
            yield url, "base"
    else:
        with transformers_serve(name, threads) as told:
            yield told


@contextlib.contextmanager
def transformers_serve(kind: str, threads: int) -> Iterator[tuple[str, str]]:
    """The peer on loopback: its base URL, and the name of its model."""
    port, model = free_port(), str(smollm2())
    dtype = str(compute_dtype("cpu", draws=True)).removeprefix("torch.")
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", model, "--device", "cpu", "--dtype", dtype,
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", *_PEERS[kind],
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(answers(f"http://127.0.0.1:{port}/health", server))
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        server.terminate()
        server.wait()


async def answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until it does."""
    async with aiohttp.ClientSession() as http:
        while True:
            assert server.poll() is None, "transformers serve ended; run it by hand to see why"
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.5)


def bodies(model: str, tokens: int) -> Iterator[dict[str, Any]]:
    """Chats of 30 to 500 tokens, none with the beginning of another."""
    draws = random.Random(0)
    for length in itertools.cycle((1, 12, 3, 40, 6, 24)):
        text = f"{draws.random()} " + "Tell me about a town by the sea, and who lives there. " * length
        chat = [{"role": "user", "content": text}]
        yield {"model": model, "messages": chat, "max_tokens": tokens, "temperature": 0}


async def alone(url: str, model: str, tokens: int) -> list[float]:
    """Seconds of each of two dozen chats, one after the other; what comes first is to warm up."""
    asked, warm, seen = bodies(model, tokens), Seen(), Seen()
    async with session() as http:
        for k in range(30):
            await ask(http, url, next(asked), warm if k < 6 else seen)
    assert set(seen.statuses) == {200}
    return seen.seconds


def climb(names: list[str], rate: float, limit_s: float, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What each did at each rate, up to the first that is too much for it, and then at rates between the last two."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}

    def carries(name: str, per_s: float) -> bool:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            step = process.submit(turn, name, per_s, args).result()
        print(f"{name:12}", "  ".join(f"{k} {v}" for k, v in step.items()), flush=True)
        found[name].append(step)
        return step["p95_s"] <= limit_s and not step["not_answered"]

    going, bounds = list(names), {}
    for before, times in itertools.pairwise((0.0, *(step for step in _STEPS if step >= args.slowest))):
        for name in list(going):
            if not carries(name, times * rate):
                going.remove(name)
                if before:
                    bounds[name] = before * rate, times * rate
    for _ in range(_HALVED):
        for name, (low, high) in bounds.items():
            between = (low * high) ** 0.5
            bounds[name] = (between, high) if carries(name, between) else (low, between)
    return found


def turn(name: str, rate: float, args: argparse.Namespace) -> dict[str, float]:
    """What a server does at a rate, started for that alone."""
    with server(name, args.threads) as (url, model):
        return asyncio.run(at(url, model, rate, args))


async def at(url: str, model: str, rate: float, args: argparse.Namespace) -> dict[str, float]:
    """What a server does at a rate, once it is warm."""
    # Each on a connection of its own: a peer may close one that waits just when it is taken up again.
    async with session(reuse=False) as http:
        for body in itertools.islice(bodies(model, args.tokens), 6):
            await ask(http, url, body, Seen())
        seen, began = Seen(), time.perf_counter()
        await open_loop(http, url, bodies(model, args.tokens), seen, rate, args.seconds)
        seconds = time.perf_counter() - began
    return {
        "per_s": round(rate, 3),
        "tokens_per_s": round(seen.tokens / seconds, 1),
        "p50_s": round(percentile(seen.seconds, 50), 3),
        "p95_s": round(percentile(seen.seconds, 95), 3),
        "not_answered": sum(n for status, n in seen.statuses.items() if status != 200),
    }


if __name__ == "__main__":
    main()
