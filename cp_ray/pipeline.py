"""Steps, and a run that does them.

A step's fingerprint is hashed over what changes its result (its config and its inputs' fingerprints), never
over what changes its speed. A step that is done is skipped; one that was cut off is cleared and done again,
so doing a step twice leaves its rows once.
"""

import dataclasses
import hashlib
import json
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.fs as pafs

from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.folder import FORMAT, Folder, Manifest, copy_folder, open_folder, storing, write_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

__all__ = ["Run", "Service", "Step", "execute", "fingerprint", "pending", "select"]


_LAST = "last.json"
"""Which step folders the last command had, done now or before: the newest need not be its."""


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
    needs: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})
    """What it must get of the cluster at once, by Ray's names of resources, or it would wait for ever."""
    publish: tuple[str, ...] = ()
    """Files and folders that are copied to the root of the run folder when the step is done."""
    resumes: bool = False
    """What an attempt that was cut off left in the folder stays there, for `run` to go on from."""
    remarks: "Callable[[Folder, Mapping[str, Folder]], Sequence[str]] | None" = None
    """What is to be said of what was made, a line of text each; called after `run`, with the same."""


def fingerprint(step: Step) -> str:
    """Ten hex digits that change with whatever changes the step's result."""
    body = [step.name, type(step.config).__name__, _plain(step.config), [fingerprint(i) for i in step.inputs]]
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:10]


class Run:
    """A run folder."""

    def __init__(self, root: str, option: str = "root") -> None:
        """Open `root`, a path or a pyarrow filesystem URI that `option` named; nothing is written yet.

        Raises:
            ConfigError: no filesystem is known for it.
            RunFolderError: it holds something else than a run of this format, or cannot be read.
        """
        self.root, self._option = open_folder(root, option), option
        try:
            self._check(root)
        except OSError as error:
            raise RunFolderError(f"{option}: {root} cannot be read ({error}); see to it, or choose another") from error

    def _check(self, root: str) -> None:
        try:
            text = self.root.read_text("run.json")
            found = json.loads(text).get("format") if text is not None else None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, AttributeError) as error:
            raise RunFolderError(
                f"{self._option}: {root}/run.json is damaged ({error}); restore it or choose another folder"
            ) from error
        if text is None:
            selector = pafs.FileSelector(self.root.path, allow_not_found=True)
            if self.root.filesystem.get_file_info(selector):
                raise RunFolderError(f"{self._option}: {root} is not empty and not a run folder; choose another")
        elif found != FORMAT:
            raise RunFolderError(
                f"{self._option}: {root} is a run folder of format {found!r}, this version reads {FORMAT}; "
                "choose another, or use the version that wrote it"
            )

    def begin(self) -> None:
        """Mark the folder as a run's.

        Raises:
            RunFolderError: it cannot be written to.
        """
        try:
            if self.root.read_text("run.json") is None:
                self.root.write_text("run.json", json.dumps({"format": FORMAT}) + "\n")
        except OSError as error:
            raise RunFolderError(f"root: {self.root.uri} cannot be written ({error}); choose another") from error

    def folder(self, step: Step) -> Folder:
        """The step's folder, whether or not it is there yet."""
        return self.root / f"{step.name}-{fingerprint(step)}"

    def manifest(self, step: Step) -> Manifest | None:
        """The step's manifest; None if it is not done."""
        return self.folder(step).manifest()

    def done(self) -> list[Folder]:
        """The folders of all finished steps, also of earlier configurations: the last command's last, then by time."""
        selector = pafs.FileSelector(self.root.path, allow_not_found=True)
        folders = [Folder(self.root.filesystem, info.path) for info in self.root.filesystem.get_file_info(selector)]
        last = self._last()
        found = [
            (posixpath.basename(f.path) in last, m.finished, f.path, f)
            for f in folders if (m := f.manifest()) is not None
        ]  # fmt: skip
        return [folder for *_, folder in sorted(found, key=lambda line: line[:3])]

    def last(self, kind: str) -> list[Folder]:
        """The finished steps of a kind, such as `train` with all of its parts, that the last command had.

        No others of that kind: an adapter that the last training left out is of other settings. Where no command has
        left word of its steps, all that there are.
        """
        every = {name: f for f in self.done() if _kind(name := posixpath.basename(f.path)) == kind}
        last = self._last()
        return [folder for name, folder in every.items() if name in last] or list(every.values())

    def note(self, steps: Sequence[Step]) -> None:
        """Write down that the last command had these steps; those of other kinds stay an earlier command's."""
        own, before = {posixpath.basename(self.folder(step).path) for step in steps}, self._last()
        kinds = set(map(_kind, own))
        named = own | {name for name in before if _kind(name) not in kinds}
        if named != before:
            self.root.write_text(_LAST, json.dumps({"steps": sorted(named)}, indent=1) + "\n")

    def _last(self) -> set[str]:
        """Names of folders; none where no command has left word."""
        try:
            text = self.root.read_text(_LAST)
            return set(json.loads(text)["steps"]) if text is not None else set()
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"root: {self.root.uri}/{_LAST} is damaged ({error}); delete it, and give the last command again"
            ) from error

    def do(self, step: Step) -> Manifest:
        """Do the step, whatever is there of it, and write its manifest last."""
        folder, started = self.folder(step), time.monotonic()
        if not step.resumes:
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

    Raises:
        RunFolderError: the storage is full, refuses, or is gone; the step is not done.
        PlacementError: the rows under way do not fit Ray's object store; nor is it then.
    """
    run.begin()
    held: Service | None = None
    with ExitStack() as stack:
        for number, step in enumerate(steps):
            manifest = run.manifest(step)
            if manifest is not None:
                run.publish(step)
                on_done(step, manifest, skipped=True)
                continue
            _note(run, steps[:number])  # before what may be killed
            on_start(step)
            if step.within is not held:
                stack.close()
                held = step.within
                if held is not None:
                    stack.enter_context(held)
            with storing(step.name, run.root):
                manifest = run.do(step)
                run.publish(step)
            on_done(step, manifest, skipped=False)
    _note(run, steps)


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


def _note(run: Run, steps: Sequence[Step]) -> None:
    with storing(_LAST, run.root):
        run.note(steps)


def _kind(folder: str) -> str:
    """`train` of `train.german-0123456789`."""
    return folder.rpartition("-")[0].split(".")[0]


def _plain(value: Any) -> Any:
    """`value` in JSON's types, with the same result for the same config in every process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        # Where an optional field says nothing, steps keep the fingerprints that they had before there was one.
        return {f.name: _plain(own) for f, own in given if own is not None or not f.metadata.get("optional")}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a step's config may hold plain values, tuples and dataclasses, got {type(value).__name__}")
