"""Which batches were sent, on disk before they are: what a restarted run attaches to instead of paying again.

    <root>/ledger-batches/<digest>.json     one file a batch, written before it is created and again with its id

The files stay: an answer that was fetched but not yet used when a run was killed is fetched again through them.
"""

import dataclasses
import json
import os
import posixpath
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from cp_ray.errors import RunFolderError

__all__ = ["BatchRecords", "Sent", "write_surely"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch that is about to be created, or was."""

    digest: str
    provider: str
    url: str
    model: str
    keys: tuple[str, ...]
    """Its requests' addresses, which are their ids within the batch as well."""
    time: float
    """When it was about to be created, in seconds since 1970."""
    id: str | None = None
    """The provider's; None: nobody knows whether it was created."""


class BatchRecords:
    """The folder of a run's batches."""

    def __init__(self, root: str) -> None:
        if "://" in root:
            self._filesystem, path = pafs.FileSystem.from_uri(root)
        else:
            self._filesystem, path = pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(root))
        self._folder = posixpath.join(path, "ledger-batches")

    def write(self, sent: Sent) -> None:
        """Put a batch on disk; it is there whole, or not at all, whenever the process ends."""
        data = json.dumps(dataclasses.asdict(sent)).encode()
        write_surely(self._filesystem, posixpath.join(self._folder, f"{sent.digest}.json"), data)

    def read(self) -> list[Sent]:
        """All batches, in the order in which they were sent.

        Raises:
            RunFolderError: a file is damaged.
        """
        infos = self._filesystem.get_file_info(pafs.FileSelector(self._folder, allow_not_found=True))
        return sorted((self._one(i.path) for i in infos if i.path.endswith(".json")), key=lambda s: s.time)

    def _one(self, path: str) -> Sent:
        with self._filesystem.open_input_stream(path) as stream:
            text = bytes(stream.read())
        try:
            fields: dict[str, Any] = json.loads(text)
            return Sent(**{**fields, "keys": tuple(fields["keys"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"root: {path} is damaged ({error}); remove the file to pay for its batch again"
            ) from error


def write_surely(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was before, whenever the process or the machine ends."""
    filesystem.create_dir(posixpath.dirname(path), recursive=True)
    if isinstance(filesystem, pafs.LocalFileSystem):
        _replace(path, data)
        return
    with filesystem.open_output_stream(path) as stream:  # object stores publish a file when it is closed
        stream.write(data)


def _replace(path: str, data: bytes) -> None:
    """Write a local file beside the old one and put it in its place, surely on disk."""
    with open(f"{path}.new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, or the file is not found after a power cut
    finally:
        os.close(folder)
