"""Many times the load that can be carried, from one key, while another key goes on as before.

    python -m benchmarks.overload [--seconds 300] [--times 10]

First it is found out how many requests a second can be carried. Then a polite client asks for a tenth of that: alone,
for `--seconds` beside a flood of `--times` as many from another key, and alone again, so that a machine that grows
slower does so for both. It asks for the same lengths at the same moments each time. All come at their own times,
whatever becomes of the requests before. The engine has all cores but one, which is left to HTTP and to the clients.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.results import append
from benchmarks.served import Seen, ask, open_loop, our_server, percentile, replicas, session
from cp_ray.serving.app import ServeSpec, Settings
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.keys import new_key

_POLITE, _FLOOD = new_key(), new_key()
_NUMBERS = itertools.count(100_000)
"""What makes each question another, and none longer than another."""


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="of the flood")
    parser.add_argument("--times", type=float, default=10, help="the sustainable rate")
    parser.add_argument("--polite", type=float, default=0.1, help="of the sustainable rate")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--room", type=int, default=3, help="requests that the server lets be under way")
    parser.add_argument("--prefix-mib", type=int, default=128, help="for chats that may go on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entries = [{"name": n, "sha256": k[1]} for n, k in (("polite", _POLITE), ("flood", _FLOOD))]
        keys = Path(folder) / "keys.yaml"
        keys.write_text(json.dumps({"keys": entries}))
        threads = max(1, (psutil.cpu_count() or 1) - 1)
        settings = Settings(
            num_cpus=1, threads=threads, keys=str(keys), max_under_way=args.room, prefix_mib=args.prefix_mib
        )
        with our_server(ServeSpec("smollm2", (ModelSpec("base"),)), settings) as url:
            figures = asyncio.run(measure(url, args))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    append("overload", {"settings": vars(args), **figures})


async def measure(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Alone, beside the flood, and alone again."""
    warm, full, alone, beside, flood = (Seen() for _ in range(5))
    lap = args.seconds / 2
    async with session(_POLITE[0]) as polite, session(_FLOOD[0]) as rude:
        await closed(polite, url, bodies(args.tokens), warm, 2, 5)
        began = time.perf_counter()
        await closed(polite, url, bodies(args.tokens), full, (args.room + 1) // 2, 20)
        rate = len(full.seconds) / (time.perf_counter() - began)

        async def a_lap(seen: Seen) -> None:
            await open_loop(polite, url, bodies(args.tokens), seen, args.polite * rate, lap)

        await a_lap(alone)
        asked = bodies(args.tokens)
        flooding = asyncio.create_task(open_loop(rude, url, asked, flood, args.times * rate, args.seconds))
        memory = asyncio.create_task(watched(args.seconds))
        await a_lap(beside)
        await a_lap(beside)
        await flooding
        await a_lap(alone)
    offered = sum(beside.statuses.values())
    everything = sum((seen.statuses for seen in (warm, full, alone, beside, flood)), Counter())
    accepted, unloaded = (percentile(seconds, 99) for seconds in (flood.seconds + beside.seconds, alone.seconds))
    means = [statistics.fmean(seen.seconds) for seen in (alone, beside)]
    return {
        "sustainable_per_s": round(rate, 2),
        "flood_per_s": round(sum(flood.statuses.values()) / args.seconds, 2),
        "statuses": {str(status): n for status, n in sorted(everything.items())},
        "refused_without_retry_after": flood.without_retry_after + beside.without_retry_after,
        "unloaded_p99_s": round(unloaded, 3),
        "accepted_p99_s": round(accepted, 3),
        "accepted_of_unloaded": round(accepted / unloaded, 3),
        "polite_asked": [sum(seen.statuses.values()) for seen in (alone, beside)],
        "polite_p50_s": [round(percentile(seen.seconds, 50), 3) for seen in (alone, beside)],
        "polite_p99_s": [round(percentile(seen.seconds, 99), 3) for seen in (alone, beside)],
        "polite_mean_s": [round(mean, 3) for mean in means],
        "polite_longer": round(means[1] / means[0] - 1, 3),
        "polite_answered": round(beside.statuses[200] / max(1, offered), 4),
        "answered_per_s": round((len(flood.seconds) + len(beside.seconds)) / args.seconds, 2),
        "engine_and_gateway_mib": await memory,
    }


def bodies(tokens: int) -> Iterator[dict[str, Any]]:
    """Short questions of six lengths in turn, none asked before."""
    for length in itertools.cycle(range(1, 7)):
        text = "Tell me about a town by the sea. " * length
        messages = [{"role": "user", "content": f"{next(_NUMBERS)} {text}"}]
        yield {"model": "base", "messages": messages, "max_tokens": tokens}


async def closed(
    http: Any, url: str, asked: Iterator[dict[str, Any]], seen: Seen, clients: int, seconds: float
) -> None:
    """So many clients, each with one request at a time."""
    until = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < until:
            await ask(http, url, next(asked), seen)

    await asyncio.gather(*(client() for _ in range(clients)))


async def watched(seconds: float) -> list[int]:
    """Resident memory at five moments, the last being the end."""
    found = []
    for _ in range(5):
        await asyncio.sleep(seconds / 5)
        both = [*replicas("engine"), *replicas("gateway")]
        found.append(sum(process.memory_info().rss for process in both) // 2**20)
    return found


if __name__ == "__main__":
    main()
