"""`cp-ray hosted RUN`: a run's jobs at the provider's, how each stands, and an end to one of them."""

import os
from collections.abc import Sequence

from cp_ray.errors import ConfigError
from cp_ray.pipeline import Run
from cp_ray.recipe import Parser
from cp_ray.training.hosted.config import Patience
from cp_ray.training.hosted.jobs import HostedJob, HostedJobs
from cp_ray.training.hosted.provider import KEY_VARIABLE, Provider

__all__ = ["hosted_command"]


def hosted_command(arguments: Sequence[str]) -> None:
    """The command line: a run folder, and the job to cancel.

    Raises:
        ConfigError: the run has no such job, or none at all.
        TrainerError: the provider cannot be asked.
    """
    parser = Parser(prog="cp-ray hosted", description="A run's jobs of hosted fine-tuning.", allow_abbrev=False)
    parser.add_argument("run", help="run folder, such as runs/demo")
    parser.add_argument("--cancel", metavar="JOB", help="end this job; what it has trained so far is paid for")
    given = parser.parse_args(arguments)
    Run(given.run, "run")  # a folder that is something else is told
    jobs = HostedJobs(given.run).read()
    if not jobs:
        raise ConfigError(f"run: {given.run!r} has no hosted job")
    if given.cancel is None:
        for job in jobs:
            print(_line(job))
        return
    ids = {job.id: job for job in jobs if job.id is not None}
    if given.cancel not in ids:
        raise ConfigError(
            f"cancel: the run has no job {given.cancel!r}; it has {', '.join(ids) or 'none that is known'}"
        )
    with _provider(ids[given.cancel]) as provider:
        print(f"{given.cancel}  {provider.cancel(given.cancel).status}")


def _line(job: HostedJob) -> str:
    if job.id is None:
        return f"{'?':<32}  {job.culture:<12}  {job.ended or 'cut off before it was known to be started'}"
    with _provider(job) as provider:
        found = provider.job(job.id)
    return f"{job.id:<32}  {job.culture:<12}  {found.status:<16}  {found.fine_tuned_model or ''}".rstrip()


def _provider(job: HostedJob) -> Provider:
    return Provider(job.url, os.environ.get(KEY_VARIABLE), Patience(attempts_watching=Patience.attempts))
