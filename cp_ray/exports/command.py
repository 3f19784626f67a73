"""`cp-ray export RUN`: what a run exported, once more and anywhere; made now if the run has only come to its rows."""

import posixpath
import tempfile
from collections.abc import Sequence

from cp_ray.cultures import restored
from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.exports.config import ExportConfig
from cp_ray.exports.export import made_by, remarks, write_export
from cp_ray.folder import Folder, Manifest, copy_folder, open_folder
from cp_ray.pipeline import Run
from cp_ray.recipe import Parser
from cp_ray.records import Example, Seed
from cp_ray.survey.items import Source

__all__ = ["export_command", "export_run"]


def export_command(arguments: Sequence[str]) -> None:
    """The command line: a run folder, and where to."""
    parser = Parser(prog="cp-ray export", description="A run's training rows for other tools.", allow_abbrev=False)
    parser.add_argument("run", help="run folder, such as runs/demo")
    parser.add_argument("--to", metavar="FOLDER", help="a path or a URI; default: the folder export in the run")
    given = parser.parse_args(arguments)
    target, said = export_run(given.run, given.to)
    for line in said:
        print(line)
    print(target.uri)


def export_run(root: str, to: str | None = None) -> tuple[Folder, Sequence[str]]:
    """Export the training rows that a run made last; gives the folder and what is to be said of it.

    Raises:
        ConfigError: the run has no training rows.
        RunFolderError: a step that the rows came from is gone, or the folder holds something else.
    """
    run = Run(root, "run")
    done = [(folder, manifest) for folder in run.done() if (manifest := folder.manifest())]
    rows = [line for line in done if line[1].name == "examples"]
    if not rows:
        raise ConfigError(f"run: {root!r} has no training rows; run a recipe up to its step examples first")
    folder, manifest = rows[-1]
    target = run.root / "export" if to is None else open_folder(to, "to")
    for source, made in reversed(done):
        if made.name == "export" and made.inputs.get("examples") == manifest.fingerprint:
            copy_folder(source / "export", target, posixpath.basename(source.path))
            return target, made.remarks
    with tempfile.TemporaryDirectory() as temporary:
        made_now = open_folder(temporary)
        said = _make(run, folder, manifest, root, made_now)
        # No label of a step's: the next run of the recipe puts its own in this place.
        copy_folder(made_now, target, f"made of {posixpath.basename(folder.path)}")
    return target, said


def _make(run: Run, folder: Folder, manifest: Manifest, root: str, out: Folder) -> list[str]:
    steps = _origins(run, manifest)
    seeds = steps["seeds"].manifest()
    assert seeds is not None
    config = ExportConfig(
        tuple(restored(culture) for culture in seeds.config["cultures"]),
        Source(**seeds.config["source"]),
        manifest.config["seed"],
    )
    made = made_by({**steps, "examples": folder}, root)
    write_export(out, steps["seeds"].read(Seed), folder.read(Example), made, config)
    return remarks(out, config)


def _origins(run: Run, manifest: Manifest) -> dict[str, Folder]:
    """The folders of all steps that one was made from, each after those that it was made from itself."""
    found: dict[str, Folder] = {}
    for name, fingerprint in manifest.inputs.items():
        folder = run.root / f"{name}-{fingerprint}"
        before = folder.manifest()
        if before is None:
            raise RunFolderError(f"run: the step {name!r} is gone from {folder.uri}; run the recipe again")
        found |= {**_origins(run, before), name: folder}
    return found
