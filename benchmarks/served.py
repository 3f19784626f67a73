"""What benchmarks of the served models share: our server on a Ray of its own, and clients that keep what they saw."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import psutil

from cp_ray.cluster import connected
from cp_ray.serving.app import ServeSpec, Settings, serving

__all__ = ["Seen", "ask", "open_loop", "our_server", "percentile", "replicas", "session"]


@dataclass
class Seen:
    """What a client saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each request that was answered."""
    tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    """Refusals that did not say when to come again."""


@contextlib.contextmanager
def our_server(spec: ServeSpec, settings: Settings) -> Iterator[str]:
    """Serve on loopback: the base URL."""
    with connected(), serving(spec, name="bench", route_prefix="/", settings=settings) as url:
        yield url


@contextlib.asynccontextmanager
async def session(key: str = "none", *, reuse: bool = True) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session without a limit of connections."""
    headers = {"authorization": f"Bearer {key}"}
    connector, timeout = aiohttp.TCPConnector(limit=0, force_close=not reuse), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as made:
        yield made


async def ask(http: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Seen) -> None:
    """One chat completion."""
    began = time.perf_counter()
    async with http.post(f"{url}/chat/completions", json=body) as reply:
        answer = await reply.json(content_type=None)
    seen.statuses[reply.status] += 1
    if reply.status == 200:
        seen.seconds.append(time.perf_counter() - began)
        seen.tokens += answer["usage"]["completion_tokens"]
    elif "retry-after" not in reply.headers:
        seen.without_retry_after += 1


async def open_loop(
    http: aiohttp.ClientSession, url: str, bodies: Iterator[dict[str, Any]], seen: Seen, rate: float, seconds: float
) -> None:
    """So many requests a second, each at its own time, whatever becomes of those before."""
    draws, began, due = random.Random(0), time.perf_counter(), 0.0
    tasks = []
    while (due := due + draws.expovariate(rate)) < seconds:
        await asyncio.sleep(began + due - time.perf_counter())
        tasks.append(asyncio.create_task(ask(http, url, next(bodies), seen)))
    await asyncio.gather(*tasks)


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment of this process's server, `engine` or `gateway`."""
    name, found = f"ServeReplica:bench:{deployment}", []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(name in part for part in process.cmdline()):
                found.append(process)
    return found


def percentile(values: Sequence[float], q: float) -> float:
    """NaN where there is none."""
    return float(np.percentile(values, q)) if values else float("nan")
