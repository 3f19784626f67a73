"""rollout: an async stage over a Ray Dataset, many records at once in each worker.

Workers wait on the network, so one of them holds many records under way, and takes a quarter of a CPU. What a worker
has paid for is in the ledger: when it dies, its records are done again from there.
"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.errors import CpRayError, told_in
from cp_ray.llm.call import Generate
from cp_ray.llm.door import Door, OpenDoor
from cp_ray.progress import Progress

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["WORKER_CPUS", "Stage", "cause_of", "rollout"]

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out")
Config = TypeVar("Config", contravariant=True)

WORKER_CPUS = 0.25
"""Of each worker: it mostly waits."""


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
    """The stage's results for every record: of a block in the order of its records, the blocks in any.

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
        batch_size=None,  # a whole block: with a number, Ray would join blocks that were made for several workers
        # One block at a time each, or the first worker that is up would take them all. A worker takes the next when the
        # last call of one has come back, so a block for each worker is quicker than several.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=WORKER_CPUS,
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
        waiting += [getattr(one, name, None) for name in ("cause", "controller_failure", "__cause__", "__context__")]
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
        # A few records more than calls: an answer that is on its way to the disk keeps no call from going.
        self.under_way = door.in_flight + door.in_flight // 8 + 2
        self.generate: OpenDoor | None = None
        _allow_files(door.in_flight)

    async def __call__(self, table: pa.Table) -> pa.Table:
        """The results in the order of their records, whichever was finished first.

        Ray cuts a large result into blocks, and where one is lost it takes that block of a second call's result: in
        another order, rows would be lost and others doubled.
        """
        if self.generate is None:  # here, because connections belong to the loop that runs this
            self.generate = self.door.open(self.progress)
        records: list[Any] = from_table(table, self.rows_in)
        waiting, made = iter(enumerate(records)), [list[Any]() for _ in records]
        lanes = [
            asyncio.create_task(self._lane(waiting, made, self.generate))
            for _ in range(min(self.under_way, len(records)))
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await self.generate.flush()
        return to_table([row for rows in made for row in rows], self.rows_out)

    async def _lane(self, waiting: Iterator[tuple[int, Any]], made: list[list[Any]], generate: Generate) -> None:
        """One record after the other."""
        for number, record in waiting:
            made[number] = await self.stage(record, generate, self.config)
            if self.progress is not None:
                self.progress.add(done=1)


def _allow_files(connections: int) -> None:
    """As many open files as connections need, if the system lets us."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
