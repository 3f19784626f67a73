"""Which hosted jobs a run has, on disk before they are created: what a restarted run attaches to.

    <root>/hosted-jobs/<digest>.json     one file for each training, written before its job is created and again with
                                         the job's id

The digest is of all that changes the model, the rows included: the same training is the same file.
"""

import dataclasses
import json
import posixpath
from dataclasses import dataclass

import pyarrow.fs as pafs

from cp_ray.errors import RunFolderError
from cp_ray.folder import open_folder
from cp_ray.llm.batch_records import write_surely

__all__ = ["HostedJob", "HostedJobs"]


@dataclass(frozen=True, slots=True)
class HostedJob:
    """A job that is about to be created, or was."""

    digest: str
    token: str
    """In the job's metadata at the provider's: the one that was started for this file, and no earlier one."""
    culture: str
    url: str
    time: float
    """When it was about to be created, in seconds since 1970."""
    training_file: str
    validation_file: str | None = None
    id: str | None = None
    """The provider's; None: nobody knows whether it was created."""
    ended: str | None = None
    """`failed` or `cancelled`, or `refused` where it was not taken: the same training would start another."""


class HostedJobs:
    """The folder of a run's jobs."""

    def __init__(self, root: str) -> None:
        self._folder = open_folder(root) / "hosted-jobs"

    def write(self, job: HostedJob) -> None:
        """Put a job on disk; it is there whole, or not at all, whenever the process ends."""
        data = json.dumps(dataclasses.asdict(job), indent=1).encode()
        write_surely(self._folder.filesystem, self.path(job.digest), data)

    def find(self, digest: str) -> HostedJob | None:
        """The job of a training that goes on or has succeeded; None where one must be started.

        Raises:
            RunFolderError: its file is damaged.
        """
        text = self._folder.read_text(f"{digest}.json")
        job = None if text is None else self._parse(digest, text)
        return None if job is None or job.ended else job

    def read(self) -> list[HostedJob]:
        """All jobs, in the order in which they were started.

        Raises:
            RunFolderError: a file is damaged.
        """
        selector = pafs.FileSelector(self._folder.path, allow_not_found=True)
        digests = [
            info.base_name.removesuffix(".json")
            for info in self._folder.filesystem.get_file_info(selector)
            if info.base_name.endswith(".json")
        ]
        found = [self._parse(digest, self._folder.read_text(f"{digest}.json") or "") for digest in digests]
        return sorted(found, key=lambda job: job.time)

    def path(self, digest: str) -> str:
        """Where a job's file is."""
        return posixpath.join(self._folder.path, f"{digest}.json")

    def _parse(self, digest: str, text: str) -> HostedJob:
        try:
            return HostedJob(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise RunFolderError(
                f"root: {self.path(digest)} is damaged ({error}); restore it, or remove it to pay for its job again"
            ) from error
