"""A provider to measure against: OpenAI's chat API with limits, headers, latency and faults, on loopback.

    python -m benchmarks.provider --port 9000 --latency-ms 300 --sigma 0.4 --rpm 6000 --tpm 1500000

GET /stats tells what was received, answered and refused; POST /set with JSON changes any setting and forgets what was
counted. Limits are buckets that hold `burst_s` seconds of the limit and start full. A refused request costs nothing.
What becomes of a request is drawn from its hash and the number of the try, so that a run can be repeated.
"""

import argparse
import asyncio
import dataclasses
import hashlib
import json
import math
import random
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httptools
import uvloop


@dataclass
class Settings:
    """What the provider is like; all can be changed while it runs."""

    latency_ms: float = 300.0
    sigma: float = 0.4
    """Of the logarithm of the latency."""
    rpm: int = 0
    tpm: int = 0
    burst_s: float = 1.0
    headers: bool = True
    """Show the limits in headers."""
    retry_after: bool = True
    slots: int = 0
    """Requests that are worked on at once; the others queue without a word. 0: any number."""
    p500: float = 0.0
    p_drop: float = 0.0
    p_hang: float = 0.0
    p_broken: float = 0.0
    """The answer's JSON is cut off."""


@dataclass
class Stats:
    """What happened since the settings were last changed."""

    received: int = 0
    ok: int = 0
    refused: int = 0
    faults: int = 0
    under_way: int = 0
    most_under_way: int = 0
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    """Charged: prompt and the most that was asked for."""
    answered: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    ok_by_second: Counter[int] = field(default_factory=Counter)
    refused_by_second: Counter[int] = field(default_factory=Counter)


class Bucket:
    """Holds `burst_s` seconds of a limit."""

    def __init__(self, per_minute: int, burst_s: float) -> None:
        self.limit, self.rate = per_minute, per_minute / 60
        self.size = self.level = max(1.0, self.rate * burst_s)
        self.at = time.monotonic()

    def missing_s(self, amount: float) -> float:
        """Seconds until it holds so much."""
        now = time.monotonic()
        self.level, self.at = min(self.size, self.level + (now - self.at) * self.rate), now
        return max(0.0, (min(amount, self.size) - self.level) / self.rate)

    def headers(self, kind: str) -> str:
        """As OpenAI shows them."""
        return (
            f"x-ratelimit-limit-{kind}: {self.limit}\r\nx-ratelimit-remaining-{kind}: {int(self.level)}\r\n"
            f"x-ratelimit-reset-{kind}: {(self.size - self.level) / self.rate:.3f}s\r\n"
        )


class Provider:
    """Settings, buckets and counts; the connections share it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.change({})

    def change(self, new: dict[str, Any]) -> None:
        """Take new settings and begin to count afresh."""
        self.settings = dataclasses.replace(self.settings, **new)
        self.stats = Stats()
        s = self.settings
        self.requests = Bucket(s.rpm, s.burst_s) if s.rpm else None
        self.tokens = Bucket(s.tpm, s.burst_s) if s.tpm else None
        self.slots = asyncio.Semaphore(s.slots) if s.slots else None

    def view(self) -> dict[str, Any]:
        """The counts, and what follows from them."""
        s = self.stats
        span = s.last - s.first
        return {
            **{f.name: getattr(s, f.name) for f in dataclasses.fields(s) if f.name not in ("answered", "tries")},
            "distinct": len(s.answered),
            "repeated": sum(n - 1 for n in s.answered.values()),
            "per_s": s.ok / span if span > 0 else 0.0,
        }

    async def chat(self, body: bytes) -> tuple[int | None, bytes, str]:
        """Status (None: drop the connection), body and headers."""
        stats, now = self.stats, time.time()
        stats.received += 1
        stats.first = stats.first or now
        asked = json.loads(body)
        id = hashlib.sha256(body).hexdigest()[:16]
        stats.tries[id] += 1
        prompt = sum(-(-len(m["content"]) // 4) + 4 for m in asked["messages"]) + 3
        charged = prompt + asked.get("max_tokens", 120)
        refused = self._refuse(charged)
        if refused:
            stats.refused += 1
            stats.refused_by_second[int(now)] += 1
            return refused
        stats.tokens += charged
        stats.under_way += 1
        stats.most_under_way = max(stats.most_under_way, stats.under_way)
        try:
            return await self._work(id, prompt, asked)
        finally:
            stats.under_way -= 1

    def _refuse(self, charged: int) -> tuple[int, bytes, str] | None:
        wait = max(
            self.requests.missing_s(1) if self.requests else 0.0, self.tokens.missing_s(charged) if self.tokens else 0.0
        )
        if wait > 0:
            told = f"retry-after: {math.ceil(wait)}\r\nretry-after-ms: {math.ceil(wait * 1000)}\r\n"
            body = json.dumps({"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}).encode()
            return 429, body, (told if self.settings.retry_after else "") + self._limits()
        if self.requests:
            self.requests.level -= 1
        if self.tokens:
            self.tokens.level -= min(charged, self.tokens.size)
        return None

    async def _work(self, id: str, prompt: int, asked: dict[str, Any]) -> tuple[int | None, bytes, str]:
        settings, stats = self.settings, self.stats
        draw = random.Random(f"{id}/{stats.tries[id]}")
        fate = draw.random()
        if fate < settings.p_hang:
            stats.faults += 1
            await asyncio.sleep(3600)
        latency = settings.latency_ms / 1000 * math.exp(settings.sigma * draw.gauss(0, 1))
        if self.slots is not None:
            async with self.slots:
                await asyncio.sleep(latency)
        else:
            await asyncio.sleep(latency)
        fate -= settings.p_hang
        if fate < settings.p_drop:
            stats.faults += 1
            return None, b"", ""
        if fate < settings.p_drop + settings.p500:
            stats.faults += 1
            return 500, b'{"error": {"message": "fault"}}', ""
        text = _text(id, asked)
        if settings.p_drop + settings.p500 <= fate < settings.p_drop + settings.p500 + settings.p_broken:
            text = text[: len(text) * 2 // 3]
        now = time.time()
        stats.ok, stats.last = stats.ok + 1, now
        stats.ok_by_second[int(now)] += 1
        stats.answered[id] += 1
        return 200, _reply(id, prompt, text), self._limits()

    def _limits(self) -> str:
        if not self.settings.headers:
            return ""
        return (self.requests.headers("requests") if self.requests else "") + (
            self.tokens.headers("tokens") if self.tokens else ""
        )


def _text(id: str, asked: dict[str, Any]) -> str:
    schema = asked.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is None:
        return f"I hold that view because of what I have seen ({id}). That is how people here live, and it suits us."
    return json.dumps(_of_schema(schema, random.Random(id)))


def _of_schema(schema: dict[str, Any], draw: random.Random) -> Any:
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if schema.get("type") == "object":
        return {name: _of_schema(part, draw) for name, part in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_of_schema(schema["items"], draw) for _ in range(2)]
    return f"People think that it matters to them, reason {draw.randrange(1000)}."


def _reply(id: str, prompt: int, text: str) -> bytes:
    tokens = len(text) // 4 + 1
    return json.dumps(
        {
            "id": f"chatcmpl-{id}",
            "object": "chat.completion",
            "model": "provider",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens},
        }
    ).encode()


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body, self.url = b"", b""

    def connection_lost(self, error: Exception | None) -> None:
        """Who asked has gone; what was worked on for it is lost."""
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """The parser read the path."""
        self.url, self.body = url, b""

    def on_body(self, body: bytes) -> None:
        """The parser read some of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """The parser read a request."""
        self.task = asyncio.ensure_future(self._answer(self.url.decode(), self.body))

    async def _answer(self, path: str, body: bytes) -> None:
        status, data, headers = 200, b"{}", ""
        if path.endswith("/chat/completions"):
            status_or_none, data, headers = await self.provider.chat(body)
            if status_or_none is None:
                self.transport.abort()
                return
            status = status_or_none
        elif path == "/set":
            self.provider.change(json.loads(body or b"{}"))
        elif path == "/stats":
            data = json.dumps(self.provider.view()).encode()
        elif path.endswith("/models"):
            data = json.dumps({"object": "list", "data": [{"id": "provider", "object": "model"}]}).encode()
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + data)


async def serve(port: int, settings: Settings) -> None:
    """Serve until cancelled."""
    provider = Provider(settings)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", port, backlog=8192)
    print(f"provider on 127.0.0.1:{port}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, default=9000)
    for f in dataclasses.fields(Settings):
        kind = type(f.default)
        parser.add_argument(
            f"--{f.name.replace('_', '-')}", type=(lambda t: t == "true") if kind is bool else kind, default=f.default
        )
    given = vars(parser.parse_args())
    port = given.pop("port")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(port, Settings(**given)))


if __name__ == "__main__":
    main()
