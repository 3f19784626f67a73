"""Versions of a model loaded, given a share, promoted and rolled back, again and again, under steady traffic.

    python -m benchmarks.version_changes [--requests 100000] [--clients 8]

Every answer is compared with what the version that the server names answers, and a request that is sent after a
roll-back has been confirmed must not be answered by what was rolled back.
"""

import argparse
import asyncio
import itertools
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.random_model import make, random_adapters
from benchmarks.results import append
from benchmarks.served import our_server, percentile, session
from cp_ray.serving.app import ServeSpec, Settings
from cp_ray.serving.chat import ModelSpec

_QUESTIONS = ("What matters most?", "Who are you?", "And now?")
_PAUSE_S = 0.3
"""Between two changes."""


@dataclass
class Watched:
    """What is known of versions, and what became of requests."""

    adapter: dict[str, str] = field(default_factory=lambda: {"1": "a0"})
    """Of each version."""
    answers: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of each adapter to each question."""
    gone: dict[str, float] = field(default_factory=dict)
    """When a roll-back of a version was confirmed."""
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    """Answers that are not those of the version that is named."""
    late: int = 0
    """Answers of a version that had been rolled back before the request was sent."""
    rolled_back_s: list[float] = field(default_factory=list)
    left: int = 0


def main() -> None:
    """Print the table and append the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=6, help="of an answer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        base, adapters = Path(root) / "base", Path(root) / "adapters"
        make("tiny", base)
        folders = random_adapters(str(base), adapters, 3, std=0.5)
        models = (ModelSpec("german", str(folders["a0"]), "german"),)
        with our_server(ServeSpec(str(base), models), Settings(adapters=str(adapters))) as url:
            figures = asyncio.run(measure(url, args))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    append("version_changes", {"settings": vars(args), **figures})


async def measure(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Learn what each adapter answers, then change versions while clients ask."""
    seen = Watched(left=args.requests)
    async with session() as http:
        await learn(http, url, seen, args.tokens)
        began, changes = time.perf_counter(), 0
        asking = asyncio.gather(*(client(http, url, seen, args.tokens) for _ in range(args.clients)))
        for number in itertools.count(len(seen.adapter) + 1):
            if asking.done():
                break
            changes += await cycle(http, url, seen, str(number))
        await asking
        took = time.perf_counter() - began
    return {
        "requests_per_s": round(args.requests / took, 1),
        "statuses": {str(status): n for status, n in sorted(seen.statuses.items())},
        "changes": changes,
        "versions_that_answered": len(seen.versions),
        "answered_by_a_wrong_version": seen.wrong,
        "answered_after_its_roll_back": seen.late,
        "roll_backs": len(seen.rolled_back_s),
        "slowest_roll_back_s": round(percentile(seen.rolled_back_s, 100), 3),
    }


async def learn(http: aiohttp.ClientSession, url: str, seen: Watched, tokens: int) -> None:
    """What each adapter answers; they all answer something else."""
    for adapter in ("a0", "a1", "a2"):
        if adapter != "a0":
            version = str(len(seen.adapter) + 1)
            seen.adapter[version] = adapter
            await change(http, url, "versions", {"version": version, "adapter": adapter, "share": 1})
        for question in _QUESTIONS:
            reply = await post(http, url, question, tokens)
            seen.answers[adapter, question] = reply[0]
        if adapter != "a0":
            await change(http, url, "rollback")
    assert all(len({seen.answers[a, q] for a in ("a0", "a1", "a2")}) == 3 for q in _QUESTIONS)


async def cycle(http: aiohttp.ClientSession, url: str, seen: Watched, version: str) -> int:
    """Offer a version, give it more, promote it in two of three times, and take it back: how many changes that were."""
    adapter = seen.adapter[version] = ("a1", "a2")[int(version) % 2]
    offered: dict[str, Any] = {"version": version, "adapter": adapter, "share": 0.1}
    steps = [("versions", offered), ("share", {"share": 0.5})]
    if int(version) % 3:
        steps.append(("promote", {}))
    for path, body in steps:
        await change(http, url, path, body)
        await asyncio.sleep(_PAUSE_S)
    began = time.perf_counter()
    await change(http, url, "rollback")
    seen.gone[version] = time.perf_counter()
    seen.rolled_back_s.append(seen.gone[version] - began)
    await asyncio.sleep(_PAUSE_S)
    return len(steps) + 1


async def client(http: aiohttp.ClientSession, url: str, seen: Watched, tokens: int) -> None:
    """One request after the other."""
    while seen.left > 0:
        seen.left -= 1
        question = _QUESTIONS[seen.left % len(_QUESTIONS)]
        began = time.perf_counter()
        text, version, status = await post(http, url, question, tokens)
        seen.statuses[status] += 1
        seen.versions[version] += 1
        seen.wrong += text != seen.answers.get((seen.adapter.get(version, ""), question))
        seen.late += began > seen.gone.get(version, began)


async def post(http: aiohttp.ClientSession, url: str, question: str, tokens: int) -> tuple[str, str, int]:
    """The answer, its version, and the status."""
    messages = [{"role": "user", "content": question}]
    body = {"model": "german", "messages": messages, "temperature": 0, "max_tokens": tokens}
    async with http.post(f"{url}/chat/completions", json=body) as reply:
        answer = await reply.json(content_type=None)
        text = answer["choices"][0]["message"]["content"] if reply.status == 200 else ""
        return text, reply.headers.get("x-cp-version", ""), reply.status


async def change(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any] | None = None) -> None:
    """One change of the model's versions."""
    async with http.post(f"{url.removesuffix('/v1')}/admin/models/german/{path}", json=body or {}) as reply:
        assert reply.status == 200, await reply.text()


if __name__ == "__main__":
    main()
