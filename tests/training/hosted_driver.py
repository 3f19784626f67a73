"""One hosted training as a program, which can be killed at a moment of the test's choice."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cp_ray.folder import open_folder
from cp_ray.records import Example, Message
from cp_ray.training.hosted import fit
from cp_ray.training.hosted.config import HostedConfig, HostedPoint, Patience
from cp_ray.training.hosted.jobs import HostedJobs
from cp_ray.training.hosted.provider import Provider

FAST = Patience(poll_s=0.02, attempts=3, attempts_watching=4, settle_s=0.4)


def chats(culture: str = "german", count: int = 12) -> list[Example]:
    return [
        Example(
            f"{culture}/Q{k}", culture, "answer", f"Q{k}",
            (Message("system", "S."), Message("user", f"Is it {k}?"), Message("assistant", "Ja" if k % 3 else "Nein")),
            (), "train",
        )
        for k in range(count)
    ]  # fmt: skip


def train(url: str, root: str, *, rows: Sequence[Example] = (), **options: Any) -> list[HostedPoint]:
    """As the step does it; `hosted.json` is left in the folder `out` of the run."""
    patience, validation, say = (options.pop(n, d) for n, d in (("patience", FAST), ("validation", ()), ("say", None)))
    config = replace(HostedConfig("german", url=url), **options)
    out = open_folder(root) / "out"
    return fit.fit_hosted(config, rows or chats(), out, root, validation=validation, patience=patience, say=say)


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str) -> None:
    """Arrange for the end of this process."""
    write = HostedJobs.write
    if moment == "before it is created":
        setattr(Provider, "create", die)  # noqa: B010
    elif moment == "before its id is kept":
        setattr(HostedJobs, "write", lambda self, job: die() if job.id else write(self, job))  # noqa: B010
    elif moment == "before its results are kept":
        setattr(Provider, "points", die)  # noqa: B010
    elif moment != "while it waits":
        raise ValueError(moment)


if __name__ == "__main__":
    url, root, moment = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    die_at(moment)
    train(url, root)
