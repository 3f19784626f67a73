"""Steps and the run folder: the only module that knows how a run lies on disk.

    <root>/run.json                    which format the folder has
    <root>/<name>-<fingerprint>/       one folder a step
        manifest.json                  written last: a step that has one is done
        rows/*.parquet  or files       what it made

A step's fingerprint is hashed over what changes its result (its config and its inputs' fingerprints), never
over what changes its speed. A step that is done is skipped; one that was cut off is cleared and done again,
so doing a step twice leaves its rows once.
"""

import dataclasses
import hashlib
import json
import posixpath
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.records import from_table, schema

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "FORMAT", "LABEL", "Folder", "Manifest", "Run", "Service", "Step", "copy_folder", "execute", "fingerprint",
    "open_folder", "pending", "select", "write_rows",
]  # fmt: skip

FORMAT = 1
"""Of the run folder. A folder of another format is refused, not guessed at."""

LABEL = ".copied-from"
"""A file in a copied folder that says of which it is."""

_SMALL_BYTES = 64 * 2**20
"""Rows up to so much are sorted and written by the driver."""

Row = TypeVar("Row")


class Service(Protocol):
    """Something that a step needs to be up."""

    def check(self) -> None:
        """Raise a CpRayError if it could not be used; called before anything is started."""
        ...

    def __enter__(self) -> Any:
        """Be up."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Be down."""
        ...


@dataclass(frozen=True)
class Step:
    """What to make, of what; how is `run`'s business."""

    name: str
    """`train.german` is the part `german` of the step `train`."""
    config: Any
    """A frozen dataclass with all that changes the result, prompts included."""
    run: "Callable[[Folder, Mapping[str, Folder]], Dataset | pa.Table | None]"
    """Called with the step's own folder and its inputs' by name. Returns rows, or None after writing files."""
    inputs: tuple["Step", ...] = ()
    rows: type | None = None
    """The row type; None for a step that makes files."""
    within: "Service | None" = None
    """What must be up while the step runs; stays up over the following steps that name the same object."""
    stage: Any = None
    """What a generating step rolls out over the rows of its first input, for an estimate of what it will cost."""
    publish: tuple[str, ...] = ()
    """Files and folders that are copied to the root of the run folder when the step is done."""
    remarks: "Callable[[Folder, Mapping[str, Folder]], Sequence[str]] | None" = None
    """What is to be said of what was made, a line of text each; called after `run`, with the same."""


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


def fingerprint(step: Step) -> str:
    """Ten hex digits that change with whatever changes the step's result."""
    body = [step.name, type(step.config).__name__, _plain(step.config), [fingerprint(i) for i in step.inputs]]
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:10]


class Run:
    """A run folder."""

    def __init__(self, root: str) -> None:
        """Open `root`, a path or a pyarrow filesystem URI; nothing is written yet.

        Raises:
            ConfigError: no filesystem is known for it.
            RunFolderError: it holds something else than a run of this format.
        """
        self.root = open_folder(root)
        self._check(root)

    def _check(self, root: str) -> None:
        text = self.root.read_text("run.json")
        if text is not None:
            try:
                found = json.loads(text).get("format")
            except (json.JSONDecodeError, AttributeError) as error:
                raise RunFolderError(
                    f"root: {root}/run.json is damaged ({error}); restore it or choose another --root"
                ) from error
            if found != FORMAT:
                raise RunFolderError(
                    f"root: {root} is a run folder of format {found!r}, this version reads {FORMAT}; "
                    "choose another --root, or use the version that wrote it"
                )
        else:
            selector = pafs.FileSelector(self.root.path, allow_not_found=True)
            if self.root.filesystem.get_file_info(selector):
                raise RunFolderError(f"root: {root} is not empty and not a run folder; choose another --root")

    def begin(self) -> None:
        """Mark the folder as a run's.

        Raises:
            RunFolderError: it cannot be written to.
        """
        try:
            if self.root.read_text("run.json") is None:
                self.root.write_text("run.json", json.dumps({"format": FORMAT}) + "\n")
        except OSError as error:
            raise RunFolderError(f"root: {self.root.uri} cannot be written ({error}); choose another --root") from error

    def folder(self, step: Step) -> Folder:
        """The step's folder, whether or not it is there yet."""
        return self.root / f"{step.name}-{fingerprint(step)}"

    def manifest(self, step: Step) -> Manifest | None:
        """The step's manifest; None if it is not done."""
        return self.folder(step).manifest()

    def done(self) -> list[Folder]:
        """The folders of all finished steps, also of earlier configurations, the last finished last."""
        selector = pafs.FileSelector(self.root.path, allow_not_found=True)
        folders = [Folder(self.root.filesystem, info.path) for info in self.root.filesystem.get_file_info(selector)]
        found = [(m.finished, f.path, f) for f in folders if (m := f.manifest()) is not None]
        return [folder for *_, folder in sorted(found, key=lambda line: line[:2])]

    def do(self, step: Step) -> Manifest:
        """Do the step, whatever is there of it, and write its manifest last."""
        folder, started = self.folder(step), time.monotonic()
        folder.clear()
        folder.filesystem.create_dir(folder.path, recursive=True)
        inputs = {i.name: self.folder(i) for i in step.inputs}
        made = step.run(folder, inputs)
        rows, rejects = (0, {}) if step.rows is None else write_rows(made, folder / "rows", step.rows)
        manifest = Manifest(
            name=step.name,
            fingerprint=fingerprint(step),
            config=_plain(step.config),
            inputs={i.name: fingerprint(i) for i in step.inputs},
            rows=rows,
            rejects=rejects,
            remarks=list(step.remarks(folder, inputs)) if step.remarks else [],
            seconds=round(time.monotonic() - started, 2),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        folder.write_text("manifest.json", json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False))
        return manifest

    def publish(self, step: Step) -> None:
        """Copy what the step publishes to the root."""
        folder = self.folder(step)
        for name in step.publish:
            text = folder.read_text(name)
            if text is None and (folder / name).exists():
                copy_folder(folder / name, self.root / name, posixpath.basename(folder.path))
            elif text is not None and text != self.root.read_text(name):
                self.root.write_text(name, text)


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


def pending(run: Run, steps: Sequence[Step]) -> list[Step]:
    """The steps that are not done, after a check that what they need can be used.

    Raises:
        CpRayError: it cannot.
    """
    todo = [step for step in steps if run.manifest(step) is None]
    for service in {id(step.within): step.within for step in todo}.values():
        if service is not None:
            service.check()
    return todo


def execute(run: Run, steps: Sequence[Step], *, on_start: Callable[[Step], None], on_done: Callable[..., None]) -> None:
    """Do the steps in order, skipping those that are done.

    `on_start(step)` is called before a step is done; `on_done(step, manifest, skipped=...)` after each.
    """
    run.begin()
    held: Service | None = None
    with ExitStack() as stack:
        for step in steps:
            manifest = run.manifest(step)
            if manifest is not None:
                run.publish(step)
                on_done(step, manifest, skipped=True)
                continue
            on_start(step)
            if step.within is not held:
                stack.close()
                held = step.within
                if held is not None:
                    stack.enter_context(held)
            manifest = run.do(step)
            run.publish(step)
            on_done(step, manifest, skipped=False)


def select(steps: Sequence[Step], until: str | None) -> list[Step]:
    """The steps up to and including `until`; `train` stands for all of its parts.

    Raises:
        ConfigError: there is no such step.
    """
    if until is None:
        return list(steps)
    last = [k for k, step in enumerate(steps) if until in (step.name, step.name.split(".")[0])]
    if not last:
        names = dict.fromkeys(step.name.split(".")[0] for step in steps)
        raise ConfigError(f"until: no step is called {until!r}; the steps are {', '.join(names)}")
    return list(steps[: last[-1] + 1])


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
    from pathlib import Path

    return str(Path(path).expanduser().absolute())


def _plain(value: Any) -> Any:
    """`value` in JSON's types, with the same result for the same config in every process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a step's config may hold plain values, tuples and dataclasses, got {type(value).__name__}")


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
