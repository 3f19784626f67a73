"""The run folder's storage: how a run lies on disk, or in a bucket.

<root>/run.json                    which format the folder has
<root>/last.json                   which step folders the last command had
<root>/<name>-<fingerprint>/       one folder a step
    manifest.json                  written last: a step that has one is done
    rows/*.parquet  or files       what it made
"""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cp_ray.arrow import from_table, schema
from cp_ray.errors import ConfigError, CpRayError, PlacementError, RunFolderError, told_in

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["FORMAT", "LABEL", "Folder", "Manifest", "copy_folder", "open_folder", "storing", "write_rows"]

FORMAT = 1
"""Of the run folder. A folder of another format is refused, not guessed at."""

LABEL = ".copied-from"
"""A file in a copied folder that says of which it is."""

_STORAGE = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Permission denied|AWS Error [^\n]*"
)

_STORE_FULL = re.compile(r"ObjectStoreFullError|OutOfDiskError|object store is full")

_SMALL_BYTES = 64 * 2**20
"""Rows up to so much are sorted and written by the driver."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Manifest:
    """What is known of a finished step."""

    name: str
    fingerprint: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    rows: int = 0
    """Rows that count."""
    rejects: Mapping[str, int] = field(default_factory=dict)
    """Rows set aside, by reason."""
    remarks: Sequence[str] = ()
    """What else is to be said, a line of text each."""
    seconds: float = 0.0
    finished: str = ""
    """ISO 8601, UTC."""
    format: int = FORMAT


@dataclass(frozen=True)
class Folder:
    """A folder on any pyarrow filesystem."""

    filesystem: Any
    path: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, posixpath.join(self.path, name))

    @property
    def uri(self) -> str:
        """What `open_folder` makes it from again."""
        scheme = {"local": "", "gcs": "gs://"}.get(self.filesystem.type_name, f"{self.filesystem.type_name}://")
        return f"{scheme}{self.path}"

    def read_text(self, name: str) -> str | None:
        """The text of a file in it, or None where there is none."""
        path = posixpath.join(self.path, name)
        if self.filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read()).decode()

    def write_text(self, name: str, text: str) -> None:
        """Write a file; a reader sees the old one or the whole new one."""
        path = posixpath.join(self.path, name)
        self.filesystem.create_dir(self.path, recursive=True)
        with self.filesystem.open_output_stream(path + ".part") as stream:
            stream.write(text.encode())
        self.filesystem.move(path + ".part", path)

    def fetch(self, target: Path) -> Path:
        """Copy all of it to a folder of this machine that is not there yet."""
        target.mkdir()
        pafs.copy_files(self.path, str(target), source_filesystem=self.filesystem)
        return target

    def exists(self) -> bool:
        """Is there such a folder?"""
        return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.Directory)

    def clear(self) -> None:
        """Remove it with all that is in it, if it is there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Its rows as one Arrow table, in the order of the file names; all columns, or these."""
        return pq.read_table((self / "rows").path, filesystem=self.filesystem, columns=columns)

    def manifest(self) -> Manifest | None:
        """What a finished step left; None if the step is not done.

        Raises:
            RunFolderError: the file is damaged.
        """
        text = self.read_text("manifest.json")
        if text is None:
            return None
        try:
            return Manifest(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise RunFolderError(
                f"root: {self.path}/manifest.json is damaged ({error}); delete that folder to do the step again"
            ) from error

    def read(self, row: type[Row]) -> list[Row]:
        """Its rows, all in memory."""
        return from_table(self.table(), row)


def open_folder(uri: str, option: str = "root") -> Folder:
    """A folder from a local path or a URI that pyarrow knows (s3://, gs://, ...); `option` is who named it.

    Raises:
        ConfigError: pyarrow knows no filesystem for it.
    """
    try:
        if "://" in uri:
            filesystem, path = pafs.FileSystem.from_uri(uri)
        else:
            filesystem, path = pafs.LocalFileSystem(), str(_absolute(uri))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            f"{option}: {uri!r} cannot be opened ({error}); give a path or a URI such as s3://…"
        ) from error
    return Folder(filesystem, path)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def copy_folder(source: Folder, target: Folder, label: str) -> None:
    """Copy a folder in place of an earlier copy, or to where nothing is; one that bears the label already stays.

    Raises:
        RunFolderError: something else is there, or it cannot be written.
    """
    held = target.read_text(LABEL)
    if held == label:
        return
    try:
        if held is None and target.filesystem.get_file_info(pafs.FileSelector(target.path, allow_not_found=True)):
            raise RunFolderError(f"{target.uri} is not empty and no earlier copy; empty it or choose another folder")
        target.clear()
        target.write_text(LABEL, "")  # a copy that is cut off is known as one
        pafs.copy_files(
            source.path, target.path, source_filesystem=source.filesystem, destination_filesystem=target.filesystem
        )
        target.write_text(LABEL, label)
    except OSError as error:
        raise RunFolderError(f"{target.uri} cannot be written ({error}); choose another folder") from error


@contextmanager
def storing(what: str, where: Folder) -> Iterator[None]:
    """Tell in one line what the storage said, if an error inside the block is its fault.

    By its words, because Ray hands on what a worker raised as text.

    Raises:
        RunFolderError: the disk is full, or the bucket refuses or is not reached.
        PlacementError: Ray's object store is full, and so is where it spills to.
    """
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        ours = isinstance(error, CpRayError) or told_in(text) is not None
        if not ours and _STORE_FULL.search(text):
            raise PlacementError(
                f"memory: the rows of {what} fit neither Ray's object store nor the disk it spills to; make room in "
                "Ray's folder (/tmp/ray, or --temp-dir), or start its nodes with more --object-store-memory, and the "
                "same command goes on where it was"
            ) from error
        said = None if ours else _STORAGE.search(text)
        if said is None:
            raise
        raise RunFolderError(
            f"root: {what} could not be written to {where.uri} ({said[0]}); "
            "see to it, and the same command goes on where it was"
        ) from error


def write_rows(made: "Dataset | pa.Table | None", folder: Folder, row: type) -> tuple[int, dict[str, int]]:
    """Write rows as Parquet in the row type's schema, sorted by id if it has one; count what counts."""
    folder.filesystem.create_dir(folder.path, recursive=True)
    if isinstance(made, pa.Table):
        pq.write_table(made.cast(schema(row)), posixpath.join(folder.path, "0.parquet"), filesystem=folder.filesystem)
    elif made is None:
        raise TypeError("a step with rows must return them")
    else:
        _write_dataset(made, folder, row)
    columns = ["reject"] if "reject" in schema(row).names else schema(row).names[:1]
    table = pq.read_table(folder.path, filesystem=folder.filesystem, columns=columns)
    if columns != ["reject"]:
        return table.num_rows, {}
    rejects: Iterable[str] = pc.drop_null(table["reject"]).to_pylist()
    counted = dict(Counter(rejects).most_common())
    return table.num_rows - sum(counted.values()), counted


def _write_dataset(made: "Dataset", folder: Folder, row: type) -> None:
    """In parallel, or in this process where that is quicker: starting Ray's workers for a sort takes seconds."""
    import ray

    made = made.materialize()
    if (made.size_bytes() or 0) <= _SMALL_BYTES:
        blocks = [block.cast(schema(row)) for block in ray.get(made.to_arrow_refs()) if block.num_rows]
        table = pa.concat_tables([schema(row).empty_table(), *blocks])
        if "id" in table.column_names:
            table = table.sort_by("id")
        pq.write_table(table, posixpath.join(folder.path, "0.parquet"), filesystem=folder.filesystem)
        return
    if "id" in schema(row).names:
        made = made.sort("id")
    made.write_parquet(folder.path, filesystem=folder.filesystem)
