"""OpenAI's fine-tuning interface, through the `openai` package, its failures in our terms.

The package tries a call again while its failure may pass, and keeps to Retry-After. One call is left to us: creating a
job costs money, so that nobody may do it again before it is known that the last try did nothing.
"""

import base64
import binascii
import contextlib
import csv
import itertools
import math
import random
import time
from collections.abc import Iterator

import openai
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from cp_ray.errors import TrainerError
from cp_ray.llm.batch_provider import CLOCK_SLACK_S, passes, told_to_wait
from cp_ray.training.hosted.config import HostedConfig, HostedPoint, Patience
from cp_ray.training.hosted.jobs import HostedJob

__all__ = ["KEY_VARIABLE", "JobRefused", "Provider"]

KEY_VARIABLE = "OPENAI_API_KEY"

_MARK = "cp_ray"
"""Under which a job's metadata carries our token of it."""

_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
"""Refusals of status 429 that no waiting mends."""


class JobRefused(TrainerError):
    """The provider does not take a job for what it asks for: its model, its file, a value."""


class Provider:
    """Whoever trains. Every call may raise a `TrainerError`."""

    def __init__(self, url: str, key: str | None, patience: Patience) -> None:
        self.url, self._patience = url, patience
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=patience.attempts - 1)
        self._watching = self._client.with_options(max_retries=patience.attempts_watching - 1)

    def __enter__(self) -> "Provider":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Look whether it lets us train."""
        with self._told("list its jobs"):
            self._client.fine_tuning.jobs.list(limit=1)

    def upload(self, name: str, text: str) -> str:
        """Upload a file of chats; its id."""
        with self._told(f"take the file {name}"):
            return self._client.files.create(file=(name, text.encode()), purpose="fine-tune").id

    def create(self, job: HostedJob, config: HostedConfig) -> str | None:
        """Start a job and give its id; None: the provider takes no more jobs now, and has not taken this one."""
        attempt, last = 1, self._patience.attempts
        while True:
            try:
                return self._create(job, config)
            except openai.RateLimitError as refusal:
                if refusal.code in _NO_MONEY:
                    raise TrainerError(f"trainer: {self.url} wants money first ({_why(refusal)})") from refusal
                if attempt == last:
                    return None
                _pause(refusal, attempt)
            except (openai.APIConnectionError, openai.APIStatusError) as failure:
                if isinstance(failure, openai.APIStatusError) and not passes(failure.status_code):
                    raise self._refusal(failure) from failure
                # The provider may have done it: look before the next try, and before anybody else's.
                failed = time.time()
                _pause(failure, attempt)
                id = self.find(job, failed + self._patience.settle_s)
                if id is not None:
                    return id
                if attempt == last:
                    with self._told("take the job"):
                        raise
            attempt += 1

    def find(self, job: HostedJob, settled: float) -> str | None:
        """The id of a job that may have been created; None is believed only when the list has settled."""
        while True:
            with self._told("list its jobs"):
                for found in self._client.fine_tuning.jobs.list(limit=100, metadata={_MARK: job.token}):
                    if found.created_at < job.time - CLOCK_SLACK_S:  # the newest come first
                        break
                    if (found.metadata or {}).get(_MARK) == job.token:
                        return found.id
            if time.time() > settled:
                return None
            time.sleep(min(1.0, self._patience.settle_s / 4))

    def job(self, id: str) -> FineTuningJob:
        """How a job stands."""
        with self._told(f"tell of the job {id}"):
            try:
                return self._watching.fine_tuning.jobs.retrieve(id)
            except openai.NotFoundError as error:
                raise TrainerError(
                    f"trainer: {self.url} does not know the job {id}; put the key of the account that started it into "
                    f"{KEY_VARIABLE}, or remove its file in the run's folder hosted-jobs to pay for another"
                ) from error

    def news(self, id: str, seen: str | None) -> list[FineTuningJobEvent]:
        """A job's events after the one with the id `seen`, the oldest first; None: all of them."""
        with self._told(f"tell of the job {id}"):
            newest_first = self._watching.fine_tuning.jobs.list_events(id, limit=100)
            return list(itertools.takewhile(lambda event: event.id != seen, newest_first))[::-1]

    def checkpoints(self, id: str) -> list[FineTuningJobCheckpoint]:
        """The models that a job left on its way, the last first; none of a provider that keeps none."""
        with self._told(f"tell of the job {id}"), contextlib.suppress(openai.NotFoundError):
            return list(self._watching.fine_tuning.jobs.checkpoints.list(id, limit=100))
        return []

    def cancel(self, id: str) -> FineTuningJob:
        """Stop a job; what it has trained so far is paid for."""
        with self._told(f"cancel the job {id}"):
            return self._client.fine_tuning.jobs.cancel(id)

    def points(self, job: FineTuningJob, culture: str) -> list[HostedPoint]:
        """A job's loss at every step: from its result file, or from its events where that is gone or unreadable."""
        for file in job.result_files:
            with self._told(f"give the results of the job {job.id}"):
                try:
                    content = self._watching.files.content(file).content
                except openai.NotFoundError:  # results are not kept for ever
                    continue
            if found := [p for row in csv.DictReader(_plain(content).splitlines()) if (p := _point(row, culture))]:
                return found
        rows = [event.data for event in self.news(job.id, None) if isinstance(event.data, dict)]
        points = {p.step: p for row in rows if (p := _point(row, culture))}
        return [points[step] for step in sorted(points)]

    def _create(self, job: HostedJob, config: HostedConfig) -> str:
        made = self._client.with_options(max_retries=0).fine_tuning.jobs.create(
            model=config.model,
            training_file=job.training_file,
            validation_file=job.validation_file,
            method={
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {
                        "n_epochs": config.n_epochs,
                        "batch_size": config.batch_size,
                        "learning_rate_multiplier": config.learning_rate_multiplier,
                    }
                },
            },
            seed=config.seed,
            suffix=config.ending,
            metadata={_MARK: job.token},
        )
        return made.id

    def _refusal(self, error: openai.APIStatusError) -> TrainerError:
        """A job that is not taken: for what it asks for, or for who asks."""
        if error.status_code == 401:
            return self._denied()
        kind = TrainerError if error.status_code == 403 else JobRefused
        return kind(f"trainer: {self.url} does not take the job (status {error.status_code}: {_why(error)})")

    def _denied(self) -> TrainerError:
        return TrainerError(f"trainer: {self.url} refuses the key; put the right one into {KEY_VARIABLE}")

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What goes wrong inside, in one line; `what` it did not do."""
        try:
            yield
        except openai.APIConnectionError as error:  # a time-out is one, too
            raise TrainerError(
                f"trainer: {self.url} does not answer; when it does, the same command goes on where it was"
            ) from error
        except openai.AuthenticationError as error:
            raise self._denied() from error
        except openai.APIStatusError as error:
            hint = "; later, the same command goes on where it was" if passes(error.status_code) else ""
            raise TrainerError(
                f"trainer: {self.url} does not {what} (status {error.status_code}: {_why(error)}){hint}"
            ) from error


def _why(error: openai.APIStatusError) -> str:
    """The provider's own words, in one line."""
    body = error.body if isinstance(error.body, dict) else {}
    return " ".join(str(body.get("message") or error.message).split())[:300]


def _pause(failure: openai.APIError, attempt: int) -> None:
    """Wait before the next attempt: as long as the provider says, or longer each time."""
    told = told_to_wait(failure.response.headers) if isinstance(failure, openai.APIStatusError) else None
    time.sleep(told if told is not None else random.uniform(0.5, 1.0) * min(60.0, 2 ** (attempt - 1)))


def _plain(content: bytes) -> str:
    """The text of a result file, which some providers give in base64."""
    with contextlib.suppress(binascii.Error):
        content = base64.b64decode(content.strip(), validate=True)
    return content.decode(errors="replace")


def _point(row: dict[str, object], culture: str) -> HostedPoint | None:
    """A line of a result file, or what an event tells; None where it holds no loss."""

    def number(*names: str) -> float | None:
        for name in names:
            with contextlib.suppress(TypeError, ValueError):
                value = float(row.get(name))  # type: ignore[arg-type]
                if math.isfinite(value):
                    return value
        return None

    step, loss = number("step"), number("train_loss")
    if step is None or loss is None:
        return None
    return HostedPoint(
        culture,
        int(step),
        loss,
        number("train_accuracy", "train_mean_token_accuracy"),
        number("valid_loss"),
        number("valid_accuracy", "valid_mean_token_accuracy"),
    )
