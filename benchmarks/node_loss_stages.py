"""What `benchmarks.node_loss` disturbs: a run of each stage, its result, and what of it was made again."""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import provider

if TYPE_CHECKING:
    from benchmarks.node_loss import Strike

__all__ = ["STAGES", "Run"]

Run = Callable[[str, "Strike"], tuple[Any, int]]
"""`(name, strike) -> (result, made again)`."""

DIALOGUES, TURNS, IN_FLIGHT = 500, 4, 64
OPINIONS, SEEDS = 6000, 300
STEPS, EVERY, STEP_S = 40, 5, 0.15
REQUESTS, CLIENTS, TOKENS = 160, 8, 48


@contextlib.contextmanager
def generation(work: Path) -> Iterator[Run]:
    """Dialogues of four dependent calls in four workers, 150 ms a call."""
    from argparse import Namespace

    from benchmarks.clients import Row, rows, talk
    from cp_ray.arrow import to_table
    from cp_ray.llm.door import Door, Target
    from cp_ray.pipeline import Run as Folders
    from cp_ray.pipeline import Step
    from cp_ray.rollout import rollout
    from cp_ray.steps.rows import dataset_of

    asked = rows(Namespace(calls=DIALOGUES * TURNS, turns=TURNS, tag="nodes", form="text"))
    with provider(latency_ms=150) as server:

        def run(name: str, strike: "Strike") -> tuple[Any, int]:
            server.set()
            door = Door((Target(server.url, "provider"),), str(work / name), "talk", IN_FLIGHT // 4)

            def roll(folder: Any, inputs: Any) -> Any:
                given = dataset_of(to_table(asked, Row), blocks=4)
                return rollout(given, talk, None, door, rows_in=Row, rows_out=Row, workers=4)

            step, folders = Step("talk", Config(), roll, rows=Row), Folders(str(work / name))
            calls = DIALOGUES * TURNS
            strike.when("MapWorker", lambda: server.stats()["distinct"] / calls, lambda: server.stats()["under_way"])
            folders.do(step)
            return sorted((row.id, row.text) for row in folders.folder(step).read(Row)), server.stats()["repeated"]

        yield run


@dataclass(frozen=True)
class Config:
    """Of a step whose result hangs on nothing."""


@contextlib.contextmanager
def dedup(work: Path) -> Iterator[Run]:
    """6,000 opinions embedded, and clustered by seed, by as many workers as there is work for."""
    from cp_ray.arrow import to_table
    from cp_ray.pipeline import Run as Folders
    from cp_ray.pipeline import Step
    from cp_ray.records import Opinion
    from cp_ray.stages.dedup import DedupConfig
    from cp_ray.steps.opinions import dedup as step_of

    draw = random.Random(0)
    words = ("work", "family", "trust", "duty", "money", "faith", "school", "friends", "justice", "order", "honour")
    table = to_table(
        [Opinion(f"o{k:05d}", "d", f"s{k % SEEDS:03d}", "german", "Hanna", "c", "q",
                 f"I think that {' '.join(draw.choices(words, k=12))} matter to us all.") for k in range(OPINIONS)],
        Opinion,
    )  # fmt: skip

    def run(name: str, strike: "Strike") -> tuple[Any, int]:
        verified = Step("verify", Config(), lambda folder, inputs: table, rows=Opinion)
        step, folders = step_of([verified], DedupConfig(per_seed=4)), Folders(str(work / name))
        folders.do(verified)
        began = time.monotonic()
        # From when the first worker is at it; an undisturbed run takes some ten seconds from there.
        strike.when("Keeper", lambda: (time.monotonic() - began) / 15)
        folders.do(step)
        return folders.folder(step).table().sort_by("id"), 0

    yield run


@dataclass
class _Steps:
    """Told of every training step, in whatever process; takes some time, so that there are moments to strike at."""

    file: str

    def step(self, done: int, total: int, **latest: float) -> None:
        """Note it."""
        with Path(self.file).open("a", encoding="utf-8") as out:
            out.write(f"{done}\n")
        time.sleep(STEP_S)


@contextlib.contextmanager
def training(work: Path) -> Iterator[Run]:
    """Two adapters on a small random model, two workers, a checkpoint every five steps."""
    import torch

    from benchmarks.random_model import make
    from cp_ray.cultures import CULTURES
    from cp_ray.folder import open_folder
    from cp_ray.records import Example, Message
    from cp_ray.survey.read import WVS7
    from cp_ray.training.config import AdapterConfig, Placement, TrainConfig
    from cp_ray.training.fit import fit

    make("tiny", work / "base", dtype=torch.float32)
    examples = [
        Example(f"{culture}/{k}", culture, "answer", f"Q{k}",
                (Message("user", f"Is {k} enough?"), Message("assistant", "Yes" if k % 3 else "No")), (), "train")
        for culture in ("german", "greek") for k in range(STEPS)
    ]  # fmt: skip
    adapters = tuple(
        AdapterConfig(name, (CULTURES[name],), passes=4, batch_size=4, learning_rate=1e-2)
        for name in ("german", "greek")
    )
    config = TrainConfig(str(work / "base"), adapters, WVS7, rank=4, alpha=8)

    def run(name: str, strike: "Strike") -> tuple[Any, int]:
        log, out = work / f"{name}.log", work / name
        log.touch()

        def steps() -> list[int]:
            return [int(line) for line in log.read_text(encoding="utf-8").split()]

        strike.when("RayTrainWorker", lambda: len(steps()) / STEPS)
        placement = Placement(2, zero_stage=0, offload="none", checkpoint_every=EVERY)
        fit(config, placement, examples, open_folder(str(out)), progress=_Steps(str(log)))
        adapters = {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in out.glob("adapters/*/*.safet*")}
        return adapters, len(steps()) - len(set(steps()))

    yield run


@contextlib.contextmanager
def serving(work: Path) -> Iterator[Run]:
    """Two replicas of an engine with two adapters, eight clients that do not ask again by themselves."""
    import aiohttp
    import torch
    from ray import serve

    from benchmarks.random_model import make, random_adapters
    from cp_ray.serving.app import ServeSpec, Settings, start
    from cp_ray.serving.chat import ModelSpec

    make("tiny", work / "base", dtype=torch.float32)  # what is drawn may not hang on who shares a batch
    adapters = random_adapters(str(work / "base"), work / "adapters", 2)
    spec = ServeSpec(str(work / "base"), tuple(ModelSpec(name, str(folder)) for name, folder in adapters.items()))
    url = start(spec, name="cultures", route_prefix="/served", settings=Settings(replicas=2))

    async def ask_all(done: list[int], under_way: list[int]) -> tuple[list[str | None], int]:
        again, answers, waiting = 0, list[str | None]([None] * REQUESTS), iter(range(REQUESTS))

        async def client(http: aiohttp.ClientSession) -> None:
            nonlocal again
            for k in waiting:
                body = {"model": f"a{k % 2}", "messages": [{"role": "user", "content": f"question {k}"}],
                        "temperature": 0.7, "seed": k, "max_tokens": TOKENS}  # fmt: skip
                while answers[k] is None:
                    under_way[0] += 1
                    try:
                        async with http.post(f"{url}/chat/completions", json=body) as reply:
                            if reply.status == 200:
                                answers[k] = (await reply.json())["choices"][0]["message"]["content"]
                    except aiohttp.ClientError:
                        pass
                    under_way[0] -= 1
                    again += answers[k] is None
                done.append(k)

        async with aiohttp.ClientSession() as http:
            await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
        return answers, again

    def run(name: str, strike: "Strike") -> tuple[Any, int]:
        done, under_way = list[int](), [0]
        strike.when("engine", lambda: len(done) / REQUESTS, lambda: under_way[0])
        return asyncio.run(ask_all(done, under_way))

    yield run
    serve.shutdown()  # type: ignore[no-untyped-call]


STAGES: dict[str, Callable[[Path], AbstractContextManager[Run]]] = {
    "generation": generation, "dedup": dedup, "training": training, "serving": serving,
}  # fmt: skip
