"""rollout: an async stage over a Ray Dataset, many records at once in each worker.

Workers wait on the network, so one of them holds many records under way, and takes a quarter of a CPU. What a worker
has paid for is in the ledger: when it dies, its records are done again from there.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from cp_ray.errors import CpRayError, told_in
from cp_ray.llm.call import Generate
from cp_ray.llm.door import Door, OpenDoor
from cp_ray.progress import Progress
from cp_ray.records import from_table, to_table

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Stage", "cause_of", "rollout"]

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out")
Config = TypeVar("Config", contravariant=True)

_YIELD_S = 0.25


class Stage(Protocol[In, Config, Out]):
    """`async (record, generate, config) -> list[record]`; may call `generate` as often as it likes."""

    async def __call__(self, record: In, generate: Generate, config: Config, /) -> list[Out]:
        """What becomes of one record."""
        ...


def rollout(
    dataset: "Dataset",
    stage: Stage[Any, Any, Any],
    config: Any,
    door: Door,
    *,
    rows_in: type,
    rows_out: type,
    workers: int = 1,
    progress: Progress | None = None,
) -> "Dataset":
    """The stage's results for every record, in any order.

    Args:
        dataset: rows of `rows_in`.
        stage: run on each record.
        config: its third argument.
        door: the model it talks to.
        rows_in: row type of `dataset`.
        rows_out: row type of the result.
        workers: actors; each has `door.in_flight` records under way.
        progress: told of every record that is finished.
    """
    import ray.data

    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(stage, config, door, rows_in, rows_out, progress),
        batch_format="pyarrow",
        # Ray runs up to four batches of a block at once; a batch that is large beside `in_flight` keeps it full.
        batch_size=4 * door.in_flight,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.25,
    )


def cause_of(error: BaseException) -> CpRayError | None:
    """Our own error inside of what Ray raised for it, if there is one."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, CpRayError):
            return one
        seen.add(id(one))
        waiting += [getattr(one, "cause", None), one.__cause__, one.__context__]
        waiting += list(getattr(one, "worker_failures", {}).values())
    return told_in(str(error))


class _Worker:
    """In a Ray Data actor: the open door, and records under way."""

    def __init__(
        self,
        stage: Stage[Any, Any, Any],
        config: Any,
        door: Door,
        rows_in: type,
        rows_out: type,
        progress: Progress | None,
    ) -> None:
        self.stage, self.config, self.door, self.progress = stage, config, door, progress
        self.rows_in, self.rows_out = rows_in, rows_out
        self.slots = asyncio.Semaphore(door.in_flight)
        self.generate: OpenDoor | None = None
        _allow_files(door.in_flight)

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        if self.generate is None:  # here, because connections belong to the loop that runs this
            self.generate = self.door.open(self.progress)
        records: list[Any] = from_table(table, self.rows_in)
        waiting = {asyncio.create_task(self._one(record, self.generate)) for record in records}
        try:
            while waiting:
                # A yield costs Ray a block, so what is finished is handed over a few times a second.
                finished, waiting = await _finished(waiting)
                yield to_table([row for task in finished for row in task.result()], self.rows_out)
        finally:
            for task in waiting:
                task.cancel()
            await self.generate.flush()

    async def _one(self, record: Any, generate: Generate) -> list[Any]:
        async with self.slots:
            rows: list[Any] = await self.stage(record, generate, self.config)
        if self.progress is not None:
            self.progress.add(done=1)
        return rows


async def _finished(tasks: "set[asyncio.Task[Any]]") -> "tuple[set[asyncio.Task[Any]], set[asyncio.Task[Any]]]":
    """The tasks that end within the next moment, at least one, and the others; at once if one failed."""
    finished, waiting = await asyncio.wait(tasks, timeout=_YIELD_S, return_when=asyncio.FIRST_EXCEPTION)
    if not finished:
        finished, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return finished, waiting


def _allow_files(connections: int) -> None:
    """As many open files as connections need, if the system lets us."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
