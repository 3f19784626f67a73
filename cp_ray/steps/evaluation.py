"""Steps that put items to models, whatever the evaluation: local ones, and those behind endpoints.

All models get the same items. A local step that was cut off goes on with the items that are not answered yet; what an
endpoint was paid for is in the ledger.
"""

import asyncio
import os
import posixpath
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cp_ray.arrow import schema, to_table
from cp_ray.evals.answer import AnswerConfig, answer, came_to_none, suited
from cp_ray.evals.choose import LocalModels, choose
from cp_ray.evals.results.sections import Way
from cp_ray.folder import Folder, write_rows
from cp_ray.llm.door import Door
from cp_ray.pipeline import Step
from cp_ray.progress import watched
from cp_ray.records import Item, Prediction
from cp_ray.steps.rows import Inputs, generating
from cp_ray.teacher import Teacher

__all__ = ["LocalConfig", "answered", "chosen", "items", "part_name", "predictions", "write_ways"]


@dataclass(frozen=True)
class LocalConfig:
    """Local models, and what made them."""

    models: LocalModels
    made: tuple[str, ...]
    """Of each adapter, the fingerprint of its training."""


def items(name: str, config: Any, make: Callable[[Inputs], Sequence[Item]], inputs: tuple[Step, ...] = ()) -> Step:
    """What is to be asked; an item with a reason is not."""

    def run(folder: Folder, given: Inputs) -> pa.Table:
        return to_table(make(given), Item)

    return Step(name, config, run, inputs, Item)


def chosen(
    name: str, asked: Step, models: LocalModels, folders: Mapping[str, Folder], made: tuple[str, ...], *, workers: int
) -> Step:
    """What the base and its adapters, or whole models, choose; `made`: as in `LocalConfig`."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        parts = folder / "parts"
        rows = [item for item in inputs[asked.name].read(Item) if item.reject is None]
        before = _parts(parts)
        answered = set(zip(before["model"].to_pylist(), before["item"].to_pylist(), strict=True))
        total = sum(1 + len(models.asked(item)) for item in rows)
        with watched(name, total=total, unit="answers") as progress:
            progress.add(done=len(answered))
            for block in choose(rows, models, folders, workers=workers, progress=progress, answered=answered):
                _write(block, parts)
        return _parts(parts).sort_by("id")

    return Step(name, LocalConfig(models, made), run, (asked,), Prediction, resumes=True)


def answered(name: str, asked: Step, config: AnswerConfig, by: Teacher) -> Step:
    """What a model behind an endpoint answers, in the best way that its server can be asked."""
    return generating(f"{name}.{part_name(config.name)}", asked, answer, config, by, Prediction, _suited)


def predictions(inputs: Inputs, steps: Sequence[Step]) -> list[Prediction]:
    """What all these steps' models said."""
    return [row for step in steps for row in inputs[step.name].read(Prediction)]


def write_ways(folder: Folder, rows: Iterable[Prediction]) -> None:
    """Write down how each model was asked, and how often no answer came, for the page."""
    asked = [row for row in rows if row.way]
    found = Counter((row.model, row.way) for row in asked)
    lost = Counter((row.model, row.way) for row in asked if came_to_none(row))
    ways = [Way(*pair, n, lost[pair]) for pair, n in found.items()]
    write_rows(to_table(ways, Way), folder / "ways" / "rows", Way)


def _suited(door: Door, config: AnswerConfig) -> AnswerConfig:
    """What a server can do is found out beside the ledger: it may be another one tomorrow."""
    if door.targets[0].batch is not None:
        return config  # batch interfaces are not asked for log-probabilities
    from cp_ray.llm.endpoint import Endpoint

    async def find_out() -> AnswerConfig:
        target = door.targets[0]
        key = os.environ.get(target.key_variable)
        endpoint = Endpoint(target.url, target.model, key, timeout_s=door.timeout_s, attempts=3)
        try:
            return await suited(endpoint, config)
        finally:
            await endpoint.close()

    return asyncio.run(find_out())


def part_name(model: str) -> str:
    """A model's name as a folder's."""
    return re.sub(r"[^\w-]+", "-", model)


def _write(block: pa.Table, parts: Folder) -> None:
    """A file that is whole or not there."""
    parts.filesystem.create_dir(parts.path, recursive=True)
    path = posixpath.join(parts.path, uuid.uuid4().hex)
    pq.write_table(block.cast(schema(Prediction)), f"{path}.part", filesystem=parts.filesystem)
    parts.filesystem.move(f"{path}.part", f"{path}.parquet")


def _parts(parts: Folder) -> pa.Table:
    selector = pafs.FileSelector(parts.path, allow_not_found=True)
    files = [i.path for i in parts.filesystem.get_file_info(selector) if i.path.endswith(".parquet")]
    tables = [pq.read_table(path, filesystem=parts.filesystem) for path in sorted(files)]
    return pa.concat_tables([schema(Prediction).empty_table(), *tables])
