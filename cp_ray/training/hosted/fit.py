"""One hosted training: its job is started once, whoever is killed, and watched to its end."""

import dataclasses
import hashlib
import json
import math
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from openai.types.fine_tuning import FineTuningJob

from cp_ray.errors import ConfigError, TrainerError
from cp_ray.exports.chats import openai_lines
from cp_ray.exports.openai_rules import MIN_ROWS, check_openai
from cp_ray.records import Example
from cp_ray.training.hosted.config import HostedConfig, HostedPoint, Patience
from cp_ray.training.hosted.jobs import HostedJob, HostedJobs
from cp_ray.training.hosted.provider import KEY_VARIABLE, JobRefused, Provider

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["fit_hosted", "submit"]

Say = Callable[[str], None]

_LONGEST_POLLS = 12
_SHOWN = 3
"""Breaches of the provider's rules that are told."""


def submit(
    config: HostedConfig,
    training: Sequence[Example],
    root: str,
    *,
    validation: Sequence[Example] = (),
    patience: Patience | None = None,
    say: Say | None = None,
) -> HostedJob | None:
    """Start a culture's job, if it is not under way or done; several that are started go on side by side.

    Args:
        config: what to train.
        training: the culture's rows.
        root: run folder, a path or URI; which jobs it has is kept there.
        validation: rows to measure the loss on; none of them in `training`.
        patience: with the provider.
        say: is told what happens, a line of text each; None for stderr.

    Returns:
        The job; None where the provider takes no more jobs now.

    Raises:
        ConfigError: the provider would refuse the rows; nothing was sent.
        TrainerError: the provider cannot be used, or refuses the rows or the job.
    """
    patience = patience or Patience()
    with Provider(config.url, os.environ.get(KEY_VARIABLE), patience) as provider:
        return _started(provider, config, _texts(config, training, validation), root, patience, say or _teller(config))


def fit_hosted(
    config: HostedConfig,
    training: Sequence[Example],
    out: "Folder",
    root: str,
    *,
    validation: Sequence[Example] = (),
    patience: Patience | None = None,
    say: Say | None = None,
) -> list[HostedPoint]:
    """Train a culture's model at the provider's, and leave `hosted.json` in `out`: the model's name, and its making.

    The arguments are those of `submit`. Where the run has the job already, it is watched on. Ctrl-C leaves it running.

    Returns:
        A point per step, as far as the provider tells of them.

    Raises:
        ConfigError: the provider would refuse the rows; nothing was sent.
        TrainerError: the provider cannot be used, or refuses the rows; the job failed, or was cancelled.
    """
    patience, say = patience or Patience(), say or _teller(config)
    with Provider(config.url, os.environ.get(KEY_VARIABLE), patience) as provider:
        job = _started(provider, config, _texts(config, training, validation), root, patience, say)
        if job is None or job.id is None:
            raise TrainerError(
                f"trainer: {config.url} takes no more jobs now; when others have ended, the same command starts this"
            )
        try:
            ended = _watched(provider, job.id, patience, say)
        except KeyboardInterrupt:
            say(
                f"{job.id} goes on at {config.url}; the same command watches it again, "
                f"`cp-ray hosted {root} --cancel {job.id}` ends it"
            )
            raise
        if ended.status != "succeeded":
            HostedJobs(root).write(dataclasses.replace(job, ended=ended.status))
            raise _came_to_nothing(ended, config)
        points = provider.points(ended, config.culture)
        out.write_text("hosted.json", json.dumps(_made(provider, ended, config), indent=1, ensure_ascii=False) + "\n")
        say(f"{ended.fine_tuned_model}, {ended.trained_tokens or 0:,} tokens trained on")
        return points


def _started(
    provider: Provider, config: HostedConfig, texts: tuple[str, str], root: str, patience: Patience, say: Say
) -> HostedJob | None:
    """The training's job, started now unless the run has it; None: the provider takes no more jobs now."""
    jobs, digest = HostedJobs(root), _digest(config, texts)
    job = jobs.find(digest)
    if job is None:
        job = _uploaded(provider, config, texts, digest)
    elif job.id is None:
        # Its creation was cut off, and nobody knows when: look before anything is paid for again.
        job = dataclasses.replace(job, id=provider.find(job, job.time + patience.settle_s), time=time.time())
    jobs.write(job)
    if job.id is not None:
        say(f"{job.id} was started before")
        return job
    try:
        id = provider.create(job, config)
    except JobRefused:
        jobs.write(dataclasses.replace(job, ended="refused"))
        raise
    if id is None:
        return None
    job = dataclasses.replace(job, id=id)
    jobs.write(job)
    say(f"{id} started at {config.url}")
    return job


def _uploaded(provider: Provider, config: HostedConfig, texts: tuple[str, str], digest: str) -> HostedJob:
    training, validation = texts
    return HostedJob(
        digest,
        uuid.uuid4().hex,
        config.culture,
        config.url,
        time.time(),
        provider.upload(f"{config.culture}.jsonl", training),
        provider.upload(f"{config.culture}-validation.jsonl", validation) if validation else None,
    )


def _watched(provider: Provider, id: str, patience: Patience, say: Say) -> FineTuningJob:
    """A job that has come to its end."""
    seen, wait = None, patience.poll_s
    while True:
        job = provider.job(id)  # before its events, so that none of them is missed when it has ended
        news = provider.news(id, seen)
        for event in news:
            if event.type != "metrics":
                say(_line(event.message))
        steps = [event for event in news if event.type == "metrics"]
        if steps:
            say(f"{_line(steps[-1].message)}{_left(job)}")
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        seen = news[-1].id if news else seen
        wait = patience.poll_s if news else min(1.5 * wait, _LONGEST_POLLS * patience.poll_s)
        time.sleep(random.uniform(0.75, 1.0) * wait)


def _left(job: FineTuningJob) -> str:
    seconds = (job.estimated_finish or 0) - time.time()
    return f", about {math.ceil(seconds / 60)} min left" if seconds > 0 else ""


def _came_to_nothing(job: FineTuningJob, config: HostedConfig) -> TrainerError:
    if job.status == "cancelled":
        what = "was cancelled"
    else:
        told = job.error is not None and job.error.code
        what = f"failed ({job.error.code}: {_line(job.error.message)})" if job.error and told else "failed"
    return TrainerError(f"trainer: the job {job.id} of {config.culture} {what}; the same command starts another")


def _made(provider: Provider, job: FineTuningJob, config: HostedConfig) -> dict[str, Any]:
    """What is kept of a job; its hyperparameters are what the provider made of `auto`."""
    return {
        "model": job.fine_tuned_model,
        "job": job.id,
        "culture": config.culture,
        "base_model": job.model,
        "url": config.url,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "hyperparameters": job.hyperparameters.to_dict(),
        "seed": job.seed,
        "created": job.created_at,
        "finished": job.finished_at,
        "checkpoints": [
            {"step": c.step_number, "model": c.fine_tuned_model_checkpoint, "metrics": c.metrics.to_dict()}
            for c in provider.checkpoints(job.id)
        ],
    }


def _texts(config: HostedConfig, training: Sequence[Example], validation: Sequence[Example]) -> tuple[str, str]:
    """Both files, checked; the rows of the first in an order of their own that the seed tells."""
    rows = sorted(training, key=lambda example: example.id)
    random.Random(config.seed).shuffle(rows)
    texts = openai_lines(rows), openai_lines(validation)
    for name, text, least in zip(("training", "validation"), texts, (MIN_ROWS, 0), strict=True):
        breaches = check_openai(text.splitlines(), least=least)
        if breaches:
            more = f" (and {len(breaches) - _SHOWN} more)" if len(breaches) > _SHOWN else ""
            raise ConfigError(
                f"{name} rows of {config.culture}: {config.url} would refuse them: {'; '.join(breaches[:_SHOWN])}{more}"
            )
    return texts


def _digest(config: HostedConfig, texts: tuple[str, str]) -> str:
    """Of all that changes the model."""
    told = [dataclasses.asdict(config), *(hashlib.sha256(text.encode()).hexdigest() for text in texts)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _teller(config: HostedConfig) -> Say:
    return lambda text: print(f"    hosted {config.culture}: {text}", file=sys.stderr, flush=True)
