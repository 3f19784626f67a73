"""What all steps share: the teacher, rows that count, a stage rolled out over them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.folder import Folder
from cp_ray.llm.door import Door
from cp_ray.llm.ledger import join_parts
from cp_ray.pipeline import Step
from cp_ray.progress import watched
from cp_ray.recipe import Options
from cp_ray.rollout import WORKER_CPUS, Stage, rollout
from cp_ray.teacher import Teacher

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Inputs", "counting", "dataset_of", "emptied", "generating", "part_of", "teacher"]

Inputs = Mapping[str, Folder]
"""The folders of a step's inputs, by name."""


def teacher(options: Options) -> Teacher:
    """The model that generates; the same object for all generating steps of a run."""
    return Teacher(options.teacher_url, options.teacher_model, options.terms, options.root)


def generating(
    name: str,
    rows: Step,
    stage: Stage[Any, Any, Any],
    config: Any,
    by: Teacher,
    row_out: type,
    settled: Callable[[Door, Any], Any] | None = None,
) -> Step:
    """A step that rolls a stage out over the rows of another that count.

    Args:
        name: of the step.
        rows: the other step.
        stage: run on each of its rows.
        config: the stage's, and what the step is known by.
        by: who generates.
        row_out: what the stage makes.
        settled: the stage's config as the model's server lets it be, once it is up.
    """
    row_in = rows.rows
    if row_in is None:
        raise TypeError(f"{rows.name} makes files, not rows")

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        given = counting(inputs[rows.name].table())
        if not given.num_rows:
            return to_table([], row_out)
        door = by.door(name)
        how = settled(door, config) if settled else config
        with watched(name, total=given.num_rows, unit="rows") as progress:
            made: Dataset = rollout(
                dataset_of(given, blocks=by.terms.workers), stage, how, door,
                rows_in=row_in, rows_out=row_out, workers=by.terms.workers, progress=progress,
            ).materialize()  # fmt: skip
        join_parts(door.ledger)
        by.check_outcome()
        return made

    needs = {"CPU": by.cpus + WORKER_CPUS}
    return Step(name, config, run, (rows,), row_out, within=by, stage=stage, needs=needs, remarks=emptied)


def dataset_of(rows: pa.Table, blocks: int = 1) -> "Dataset":
    """A dataset of so many blocks, so that there is one for each worker."""
    import ray.data

    size = -(-rows.num_rows // blocks)
    return ray.data.from_arrow([rows.slice(k, size) for k in range(0, rows.num_rows, size)])


def counting(rows: pa.Table) -> pa.Table:
    """The rows that were not set aside."""
    import pyarrow.compute as pc

    if "reject" not in rows.column_names:
        return rows
    return rows.filter(pc.is_null(rows["reject"]))


def emptied(folder: Folder, inputs: Inputs) -> list[str]:
    """Which cultures, or which questions, have rows and none that counts."""
    rows = folder.table()
    if not rows.num_rows:
        return ["no row came in"]
    by = "culture" if "culture" in rows.column_names else "question_id"
    lost = set(rows[by].to_pylist()) - set(counting(rows)[by].to_pylist())
    return [f"nothing is left of {', '.join(sorted(lost))}"] if lost else []


def part_of(step: Step) -> str:
    """`.2` of `dialogue.2`: which wave a step is of."""
    return "".join(step.name.partition(".")[1:])
