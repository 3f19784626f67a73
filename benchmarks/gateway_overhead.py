"""What keys, limits, routing and the log add to a request: open-loop load on the API over HTTP, with and without them.

    python -m benchmarks.gateway_overhead [--rate 200] [--seconds 20]

The engine is replaced by one that answers at once, so nothing else is measured. Both servers run side by side and are
asked in turn, each request at its own time whatever became of those before.
"""

import argparse
import asyncio
import multiprocessing
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.results import append
from cp_ray.cultures import CULTURES
from cp_ray.serving.api import build_api
from cp_ray.serving.call import Call, RequestLog
from cp_ray.serving.chat import ChatRequest, ChatResult, Load, ModelSpec, Piece, whole
from cp_ray.serving.detect import LanguageOf
from cp_ray.serving.keys import Key, Keys, new_key
from cp_ray.serving.operation import Receive, Scope, Send
from cp_ray.serving.service import Service

_KEY, _SHA256 = new_key()
_MODELS = tuple(ModelSpec(c.id, f"a/{c.id}", c.id, locales=c.locales) for c in CULTURES.values())
_CODES = {c.locales[0].split("-")[0] for c in CULTURES.values()}
_BARE = {"model": "german", "messages": [{"role": "user", "content": "Was ist dir im Leben am wichtigsten?"}]}
_ROUTED = _BARE | {"model": "auto"}


class Instant:
    """An engine that answers at once."""

    async def complete(self, request: ChatRequest, heard: Callable[[Piece], None]) -> ChatResult:
        """Always the same."""
        pieces = [piece async for piece in self.stream(request)]
        heard(pieces[-1])
        return whole(pieces)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """In one piece."""
        yield Piece("Familie.", "stop", 12, 3)

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Nothing."""
        return [[0.0] for _ in texts]

    async def check(self, name: str, adapter: str) -> None:
        """Every adapter fits."""

    async def forget(self, name: str) -> None:
        """It keeps none."""

    async def load(self) -> Load:
        """Nothing."""
        return Load(0, 0, 0, 0)


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200, help="requests/s, of both servers together")
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    ports = {name: free_port() for name in ("bare", "whole")}
    servers = [multiprocessing.Process(target=serve, args=(name, port), daemon=True) for name, port in ports.items()]
    for server in servers:
        server.start()
    try:
        took = asyncio.run(load(ports, args.rate, args.seconds))
    finally:
        for server in servers:
            server.terminate()
    figures = {name: {f"p{q}": round(float(np.percentile(ms, q)), 2) for q in (50, 99)} for name, ms in took.items()}
    added = {q: round(figures["whole"][q] - figures["bare"][q], 2) for q in ("p50", "p99")}
    print(f"{args.rate:g} requests/s for {args.seconds:g} s, milliseconds")
    for name, values in {**figures, "added": added}.items():
        print(f"{name:8} p50 {values['p50']:8.2f}  p99 {values['p99']:8.2f}")
    append("gateway_overhead", {"settings": vars(args), "milliseconds": figures, "added": added})


def serve(name: str, port: int) -> None:
    """One server: `bare` is the API alone, `whole` has keys, limits, routing by language and a log as well."""
    import uvicorn

    if name == "whole":
        key = Key("k", _SHA256, requests_per_minute=10**6, tokens_per_minute=10**9)
        log = RequestLog(str(Path(tempfile.mkdtemp()) / "log"), prompts=False)
        service = Service(Instant(), "b", _MODELS, keys=Keys([key]), identify=LanguageOf(_CODES), log=log)
        uvicorn.run(build_api(service), host="127.0.0.1", port=port, log_level="error")
        return
    api = build_api(Service(Instant(), "b", _MODELS))
    api.user_middleware.clear()

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["call"] = Call("POST", "/")
        await api(scope, receive, send)

    uvicorn.run(bare, host="127.0.0.1", port=port, log_level="error", lifespan="off")


async def load(ports: dict[str, int], rate: float, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each request, by server, once both are warm."""
    took: dict[str, list[float]] = {name: [] for name in ports}
    headers = {"authorization": f"Bearer {_KEY}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask(name: str, *, count: bool) -> None:
            body = _BARE if name == "bare" else _ROUTED
            began = time.perf_counter()
            async with session.post(f"http://127.0.0.1:{ports[name]}/v1/chat/completions", json=body) as reply:
                assert reply.status == 200, await reply.text()
                await reply.read()
            if count:
                took[name].append(1000 * (time.perf_counter() - began))

        for name, port in ports.items():
            while True:
                try:
                    await session.get(f"http://127.0.0.1:{port}/healthz")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            await asyncio.gather(*(ask(name, count=False) for _ in range(100)))
        draws, tasks = random.Random(0), []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            tasks.append(asyncio.create_task(ask(draws.choice(list(ports)), count=True)))
            await asyncio.sleep(draws.expovariate(rate))
        await asyncio.gather(*tasks)
    return took


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
