"""Clients to be measured, each a process of its own: ours, and what it is set beside.

    python -m benchmarks.clients ours --url http://127.0.0.1:9000/v1 --calls 3000 --in-flight 256

    bare        aiohttp and nothing else: the floor
    openai      the openai package on its aiohttp transport, paced evenly if --rpm is given
    ray_data    the openai package in Ray Data's map_batches, without a word of ours
    ours        rollout, with the ledger, the limits and everything

`--turns` makes every record a dialogue of so many dependent calls.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Message

__all__ = ["Row", "talk"]

SYSTEM = "You are Hanna, a German woman. Speak as Hanna, in two or three plain sentences."
MAX_TOKENS = 96
SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {"opinions": {"type": "array", "items": {"type": "string"}}},
        "required": ["opinions"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """A record to be worked on, and what came of it."""

    id: str
    turns: int
    form: str = "text"
    """Or `json`: the answer is asked for by a schema."""
    text: str = ""
    reject: str | None = None


def rows(given: argparse.Namespace) -> list[Row]:
    """The records of a run."""
    return [Row(f"{given.tag}/{k}", given.turns, given.form) for k in range(given.calls // given.turns)]


async def talk(row: Row, generate: Generate, config: Any) -> list[Row]:
    """One record: `turns` calls, each with all that was said before."""
    messages = [Message("system", SYSTEM), Message("user", f"Question {row.id}: is work a duty to society, and why?")]
    text = ""
    if row.form == "json":
        found = await ask_json(generate, messages, Sampling(0.7, MAX_TOKENS, 0, SCHEMA))
        return [replace(row, text=str(found.value), reject=found.reject)]
    for turn in range(row.turns):
        answer = await generate(messages, Sampling(0.7, MAX_TOKENS, turn))
        if not answer.text:
            return [replace(row, text=text, reject=answer.finish_reason)]
        text += answer.text
        messages += [Message("assistant", answer.text), Message("user", f"Turn {turn}: tell me more of that.")]
    return [replace(row, text=text)]


Ask = Callable[[Sequence[dict[str, str]], int], Awaitable[str]]


async def _plain(given: argparse.Namespace, ask: Ask) -> None:
    slots = asyncio.Semaphore(given.in_flight)

    async def one(row: Row) -> None:
        async with slots:
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Question {row.id}"}]
            for turn in range(row.turns):
                text = await ask(messages, turn)
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": f"Turn {turn}: more."}]

    await asyncio.gather(*(one(row) for row in rows(given)))


async def bare(given: argparse.Namespace) -> None:
    """Nothing but aiohttp."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(messages: Sequence[dict[str, str]], seed: int) -> str:
            body = {"model": given.model, "messages": messages, "max_tokens": MAX_TOKENS, "seed": seed}
            async with session.post(f"{given.url}/chat/completions", json=body) as reply:
                return str((await reply.json())["choices"][0]["message"]["content"])

        await _plain(given, ask)


async def openai(given: argparse.Namespace) -> None:
    """The openai package; with --rpm, one call every 60/rpm seconds."""
    await _plain(given, _openai_ask(given))


def _openai_ask(given: argparse.Namespace) -> Ask:
    import openai as package

    client = package.AsyncOpenAI(
        base_url=given.url, api_key="none", max_retries=20, http_client=package.DefaultAioHttpClient()
    )
    loop, due = asyncio.get_running_loop(), 0.0

    async def ask(messages: Sequence[dict[str, str]], seed: int) -> str:
        nonlocal due
        if given.rpm:
            due = max(due, loop.time()) + 60 / given.rpm
            await asyncio.sleep(due - loop.time())
        said: Any = list(messages)
        reply: Any = await client.chat.completions.create(
            model=given.model, messages=said, max_tokens=MAX_TOKENS, seed=seed
        )
        return str(reply.choices[0].message.content)

    return ask


class _RayDataAsk:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.ask: Ask | None = None

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        ask = self.ask = self.ask or _openai_ask(self.given)
        asked = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Question {id}"}]
                 for id in batch["id"]]  # fmt: skip
        return {"text": list(await asyncio.gather(*(ask(m, 0) for m in asked)))}


def ray_data(given: argparse.Namespace) -> None:
    """The openai package in Ray Data's map_batches."""
    import ray.data

    from cp_ray.arrow import to_table
    from cp_ray.cluster import connected

    with connected():
        dataset = ray.data.from_arrow(to_table(rows(given), Row))
        dataset.map_batches(
            _RayDataAsk,
            fn_constructor_args=(given,),
            batch_size=given.in_flight // (4 * given.workers),
            compute=ray.data.ActorPoolStrategy(size=given.workers),
            num_cpus=0.25,
        ).materialize()


def ours(given: argparse.Namespace) -> None:
    """`rollout`, as a step uses it."""
    import ray.data

    from cp_ray.arrow import from_table, to_table
    from cp_ray.cluster import connected
    from cp_ray.llm.control import Rules, control
    from cp_ray.llm.door import Door, Target
    from cp_ray.llm.limiter import Limits
    from cp_ray.rollout import rollout

    with connected(), tempfile.TemporaryDirectory() as folder:
        root = given.root or folder
        shared, limits = control(Rules()), Limits(given.rpm or None, given.tpm or None)
        target = Target(given.url, given.model)
        door = Door((target,), root, "talk", given.in_flight // given.workers, given.timeout_s, shared, limits, root)
        # One block for each worker, as `steps` makes them.
        some = rows(given)
        per = -(-len(some) // given.workers)
        dataset = ray.data.from_arrow([to_table(some[k : k + per], Row) for k in range(0, len(some), per)])
        made = rollout(dataset, talk, None, door, rows_in=Row, rows_out=Row, workers=given.workers).materialize()
        import ray

        done = [row for table in ray.get(made.to_arrow_refs()) for row in from_table(table, Row)]
        rejects = [row.reject for row in done if row.reject]
        print(
            f"rows {len(done)} distinct {len({row.id for row in done})} rejects {len(rejects)} {sorted(set(rejects))}"
        )


def main() -> None:
    """Run one client."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("client", choices=("bare", "openai", "ray_data", "ours"))
    parser.add_argument("--url", default="http://127.0.0.1:9000/v1")
    parser.add_argument("--model", default="provider")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--rpm", type=int, default=0)
    parser.add_argument("--tpm", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=120.0)
    parser.add_argument("--root", help="run folder; default: one that is thrown away")
    parser.add_argument("--tag", default="bench")
    parser.add_argument("--form", choices=("text", "json"), default="text")
    given = parser.parse_args()
    chosen = globals()[given.client]
    if asyncio.iscoroutinefunction(chosen):
        asyncio.run(chosen(given))
    else:
        chosen(given)


if __name__ == "__main__":
    main()
