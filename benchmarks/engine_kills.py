"""The engine's process killed under load, again and again: what is lost, how streams end, how soon it is back.

    python -m benchmarks.engine_kills [--kills 10]

Clients ask one after the other, some for whole answers and some for streams, while the only engine gets SIGKILL. It is
back once a request that was sent after the kill has been answered.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.random_model import make
from benchmarks.results import append
from benchmarks.served import our_server, percentile, replicas, session
from cp_ray.serving.app import ServeSpec, Settings
from cp_ray.serving.chat import ModelSpec

_CALM_S = 3.0
"""From the service being back to the next kill."""
_TOKENS = 200


@dataclass
class Watched:
    """What became of requests."""

    wholes: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)
    """When whole answers were asked for, and when they came."""
    under_way: int = 0
    stopping: bool = False


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--wholes", type=int, default=6, help="clients that ask for whole answers")
    parser.add_argument("--streams", type=int, default=3, help="clients that ask for streams")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make("tiny", Path(root) / "base")
        with our_server(ServeSpec(str(Path(root) / "base"), (ModelSpec("base"),)), Settings()) as url:
            figures = asyncio.run(measure(url, args))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    append("engine_kills", {"settings": vars(args), **figures})


async def measure(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Kill, wait until it is back, and again."""
    seen, back_s, caught = Watched(), [], 0
    async with session() as http:
        tasks = [asyncio.create_task(whole(http, url, seen)) for _ in range(args.wholes)]
        tasks += [asyncio.create_task(stream(http, url, seen)) for _ in range(args.streams)]
        for _ in range(args.kills):
            await asyncio.sleep(_CALM_S)
            (engine,) = await asyncio.to_thread(replicas, "engine")
            caught += seen.under_way
            killed = time.perf_counter()
            engine.kill()
            while not (after := [end for begun, end in seen.answered if begun > killed]):
                await asyncio.sleep(0.05)
            back_s.append(min(after) - killed)
        seen.stopping = True
        await asyncio.gather(*tasks)
    return {
        "kills": args.kills,
        "under_way_at_kills": caught,
        "whole_answers": dict(sorted(seen.wholes.items())),
        "streams": dict(sorted(seen.streams.items())),
        "back_s_median": round(percentile(back_s, 50), 1),
        "back_s_slowest": round(max(back_s), 1),
    }


def asked(*, stream: bool) -> dict[str, Any]:
    """A chat."""
    messages = [{"role": "user", "content": f"Tell me about a town. {time.perf_counter_ns()}"}]
    return {"model": "base", "messages": messages, "max_tokens": _TOKENS, "stream": stream}


async def whole(http: aiohttp.ClientSession, url: str, seen: Watched) -> None:
    """Whole answers, one after the other; each must come, and be whole."""
    while not seen.stopping:
        begun = time.perf_counter()
        seen.under_way += 1
        async with http.post(f"{url}/chat/completions", json=asked(stream=False)) as reply:
            answer = await reply.json(content_type=None)
        seen.under_way -= 1
        if reply.status != 200:
            seen.wholes[f"status {reply.status}"] += 1
            continue
        seen.wholes["whole" if answer["choices"][0]["finish_reason"] else "cut off"] += 1
        seen.answered.append((begun, time.perf_counter()))


async def stream(http: aiohttp.ClientSession, url: str, seen: Watched) -> None:
    """Streams, one after the other: how each ended."""
    while not seen.stopping:
        seen.under_way += 1
        last, end = "", "without a word"
        async with http.post(f"{url}/chat/completions", json=asked(stream=True)) as reply:
            async for line in reply.content:
                last = line.decode().strip().removeprefix("data: ") or last
        seen.under_way -= 1
        if last == "[DONE]":
            end = "whole"
        elif last.startswith('{"error"'):
            end = json.loads(last)["error"]["message"]
        seen.streams[end if reply.status == 200 else f"status {reply.status}"] += 1


if __name__ == "__main__":
    main()
