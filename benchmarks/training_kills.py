"""SIGKILL of a training worker or of the driver, at random moments: what is lost, and how soon it goes on.

    python -m benchmarks.training_kills --kills 100
    pip install trl==1.16.0; python -m benchmarks.training_kills --trainer trl --kills 6 --a-run 3

Two workers train two adapters on a small random model, a checkpoint every five steps; half of the kills end a worker,
which Ray Train replaces, half the driver with its whole Ray, which is started again by the same command. Every run has
to end with the adapters of an undisturbed one, bit for bit. Recovery is from the kill to the next step that is told.
With `--trainer trl` TRL learns the rows of one of the two on Ray Train (`benchmarks/trl_on_ray.py`), as many steps.
Prints a table and appends a line to benchmarks/results.jsonl.
"""

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.kills import kill_one, kill_session
from benchmarks.random_model import make
from benchmarks.results import append
from cp_ray.records import Example, Message

EVERY, STEPS, STEP_S = 5, 40, 0.1


@dataclass
class Outcome:
    """Of all kills of one kind."""

    kills: int = 0
    runs: int = 0
    same: int = 0
    """Runs with the undisturbed run's adapters."""
    redone: list[int] = field(default_factory=list)
    """Steps that were made again after each kill."""
    recovery_s: list[float] = field(default_factory=list)


@dataclass
class Log:
    """Told of every step by the first worker, in whatever process that is."""

    file: str

    def step(self, done: int, total: int, **latest: float) -> None:
        """Note when it was; and take some time, so that there are moments to be killed at."""
        with Path(self.file).open("a", encoding="utf-8") as out:
            out.write(f"{done} {time.time()} {os.getpid()}\n")
        time.sleep(STEP_S)


def main() -> None:
    """Kill, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100, help="half of them of a worker, half of the driver")
    parser.add_argument("--a-run", type=int, default=5, help="kills in one run")
    parser.add_argument("--trainer", choices=("ours", "trl"), default="ours")
    parser.add_argument("--drive", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(Path(given.drive), given.trainer)
        return
    import torch

    draw, lines = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make("tiny", work / "base", dtype=torch.float32)
        if _start(work, "whole", given.trainer).wait():
            raise SystemExit((work / "whole.err").read_text()[-3000:])
        wanted = _adapters(work / "whole")
        print(f"{'killed':<8}{'kills':>6}{'runs':>6}{'same':>6}{'redone':>18}{'recovery':>22}")
        for kind in ("worker", "driver"):
            outcome = Outcome()
            while outcome.kills < given.kills // 2:
                name, kills = f"{kind}-{outcome.runs}", min(given.a_run, given.kills // 2 - outcome.kills)
                _one_run(work, name, partial(_start, work, name, given.trainer), kind, outcome, kills, draw)
                outcome.same += _adapters(work / name) == wanted
            redone, recovery = outcome.redone, outcome.recovery_s
            print(
                f"{kind:<8}{outcome.kills:>6}{outcome.runs:>6}{outcome.same:>6}"
                f"{f'{statistics.fmean(redone):.1f}, at most {max(redone)}':>18}"
                f"{f'{statistics.median(recovery):.1f} s, at most {max(recovery):.1f}':>22}",
                flush=True,
            )
            lines.append({"killed": kind, **vars(outcome), "recovery_s": [round(s, 1) for s in recovery]})
    append("training_kills", {"trainer": given.trainer, "every": EVERY, "steps": STEPS, "rows": lines})


def drive(out: Path, trainer: str) -> None:
    """Train to the end, or go on from where an earlier attempt was."""
    from benchmarks import trl_on_ray
    from cp_ray.cluster import connected
    from cp_ray.cultures import CULTURES
    from cp_ray.folder import open_folder
    from cp_ray.survey.read import WVS7
    from cp_ray.training.config import AdapterConfig, Placement, TrainConfig

    examples = [
        Example(f"{culture}/{k}", culture, "answer", f"Q{k}",
                (Message("user", f"Is {k} enough?"), Message("assistant", "Yes" if k % 3 else "No")), (), "train")
        for culture in ("german", "greek") for k in range(STEPS)
    ]  # fmt: skip
    adapters = tuple(
        AdapterConfig(name, (CULTURES[name],), passes=4, batch_size=4, learning_rate=1e-2)
        for name in ("german", "greek")
    )
    config = TrainConfig(str(out.parent / "base"), adapters, WVS7, rank=4, alpha=8)
    placement = Placement(2, zero_stage=0, offload="none", checkpoint_every=EVERY, max_failures=-1)
    with connected():
        if trainer == "trl":
            trl_on_ray.drive(out, [e for e in examples if e.culture == "german"], Log(f"{out}.log"), EVERY)
        else:
            from cp_ray.training.fit import fit

            fit(config, placement, examples, open_folder(str(out)), progress=Log(f"{out}.log"))


def _one_run(
    work: Path, name: str, start: Callable[[], "subprocess.Popen[bytes]"], kind: str, outcome: Outcome, kills: int,
    draw: random.Random,
) -> None:  # fmt: skip
    log, process = Path(f"{work / name}.log"), start()
    for number in range(kills):
        # Somewhere in its part of the steps, and within a step.
        goal = STEPS * (number + draw.random()) / kills
        if not _wait(process, partial(_reached, log, goal)):
            break
        time.sleep(draw.random() * STEP_S)
        pid, killed = _steps(log)[-1].pid, time.time()
        outcome.kills += 1
        if kind == "driver":
            kill_session(process)
            process = start()
        else:
            kill_one(process, "RayTrainWorker")
        if not _wait(process, partial(_replaced, log, pid)):
            break
        steps = _steps(log)
        first = next(k for k in range(len(steps) - 1, -1, -1) if steps[k].pid == pid) + 1
        outcome.redone.append(steps[first - 1].done - steps[first].done + 1)
        outcome.recovery_s.append(steps[first].at - killed)
    if process.wait(timeout=300):
        print(Path(f"{work / name}.err").read_text()[-3000:])
    outcome.runs += 1


def _start(work: Path, name: str, trainer: str) -> "subprocess.Popen[bytes]":
    with Path(f"{work / name}.err").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_kills", "--trainer", trainer, "--drive", str(work / name)],
            stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            env={**os.environ, "RAY_TMPDIR": tempfile.mkdtemp(prefix="kills-")},
        )  # fmt: skip


class _Step(NamedTuple):
    done: int
    at: float
    pid: int


def _steps(log: Path) -> list[_Step]:
    if not log.exists():
        return []
    lines = (line.split() for line in log.read_text(encoding="utf-8").splitlines())
    return [_Step(int(done), float(at), int(pid)) for done, at, pid in lines]


def _reached(log: Path, goal: float) -> bool:
    return any(step.done >= goal for step in _steps(log)[-1:])


def _replaced(log: Path, pid: int) -> bool:
    return _steps(log)[-1].pid != pid


def _wait(process: "subprocess.Popen[bytes]", ready: Callable[[], bool]) -> bool:
    """Until it is so; False if the run ended before."""
    while process.poll() is None:
        if ready():
            return True
        time.sleep(0.02)
    return False


def _adapters(out: Path) -> dict[str, str]:
    """What the adapters hold, and the steps of each in the order they were counted."""
    found = {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in out.glob("adapters/*/*.safetensors")}
    run = json.loads((out / "run.json").read_text()) if (out / "run.json").exists() else {}
    return found | {"steps": str(run.get("steps")), "tokens": str(run.get("tokens"))}


if __name__ == "__main__":
    main()
