"""Drivers that are killed at and in each step of a recipe: `python -m tests.chaos.killed_driver FOLDER`.

Each is a process of its own, forked before anything has threads. The steps are the recipe's, with their fingerprints
and inputs, but what they do is to write that they were begun.
"""

import dataclasses
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cp_ray.arrow import to_table
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, execute
from cp_ray.recipe import load_recipe, parse_recipe


def light(step: Step, begun: Path, *, killed: bool) -> Step:
    def run(folder: Folder, inputs: Mapping[str, Folder]) -> Any:
        with begun.open("a", encoding="utf-8") as out:
            out.write(f"{step.name}\n")
        folder.write_text("made", step.name)
        if not all(given.manifest() for given in inputs.values()):
            raise AssertionError(f"{step.name} has inputs that are not done")
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return None if step.rows is None else to_table([], step.rows)

    return dataclasses.replace(step, run=run, within=None, remarks=None, publish=())


def drive(root: Path, steps: list[Step], at: str | None = None, within: str | None = None) -> int:
    """A driver, killed at the start of a step or in its midst; gives how it ended."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]

    def start(step: Step) -> None:
        if step.name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    some = [light(step, root.parent / "begun", killed=step.name == within) for step in steps]
    execute(Run(str(root)), some, on_start=start, on_done=lambda *_, **__: None)
    os._exit(0)


def main(folder: str) -> None:
    root = Path(folder) / "run"
    options = ["--root", str(root), "--teacher-url", "http://teacher/v1", "--teacher-model", "m"]
    steps = parse_recipe(load_recipe("jobs/culturepark.py"), options, "test")[1]
    for step in steps:
        ends = (drive(root, steps, at=step.name), drive(root, steps, within=step.name))
        if ends != (signal.SIGKILL, signal.SIGKILL):
            raise AssertionError(f"{step.name}: the drivers ended with {ends}")
    if drive(root, steps):
        raise AssertionError("the last driver failed")
    print(*[step.name for step in steps])


if __name__ == "__main__":
    main(*sys.argv[1:])
