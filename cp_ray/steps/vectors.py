"""Embeddings that a step leaves in its folder, beside its rows, for those that come after it."""

import posixpath
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cp_ray.errors import RunFolderError
from cp_ray.folder import Folder

__all__ = ["read_vectors", "write_vectors"]


def write_vectors(folder: Folder, blocks: Iterable[Any]) -> None:
    """Write `id` and `vector` of the rows that have one, a Parquet file a block.

    `blocks`: tables with these columns, or references to such, which are fetched one at a time.
    """
    import ray

    target = folder / "vectors"
    target.filesystem.create_dir(target.path, recursive=True)
    for number, block in enumerate(blocks):
        table = (block if isinstance(block, pa.Table) else ray.get(block)).select(["id", "vector"])
        there = table.filter(pc.is_valid(table["vector"]))
        pq.write_table(there, posixpath.join(target.path, f"{number:05d}.parquet"), filesystem=target.filesystem)


def read_vectors(folder: Folder) -> pa.Table:
    """What `write_vectors` wrote: `id`, and `vector` as a fixed-size list of float32.

    Raises:
        RunFolderError: nothing was written there.
    """
    source = folder / "vectors"
    if not source.exists():
        raise RunFolderError(f"root: {source.uri} is not there; delete {folder.uri} to do that step again")
    return pq.read_table(source.path, filesystem=source.filesystem)
