"""What a base model's folder holds, as a hash: its path stays the same when other weights are put into it.

All that `transformers` reads is read whole, the weights too. Their headers and a few samples would take less time, but
a change can be as small as the rows of two new tokens, with every size as before; and times of files tell nothing,
since a copy may bring them along. It takes about as long as loading the model once.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cp_ray.errors import BaseModelError, ConfigError

__all__ = ["OnBase", "check_contents", "contents_of"]

_READ = {".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken"}
"""Weights, configuration, tokenizer and chat template; pictures, cards and weights in other formats are not used."""


@dataclass(frozen=True)
class OnBase:
    """The config of a step whose result hangs on a base model."""

    base_model: str
    base_contents: str | None = field(default=None, init=False, metadata={"optional": True})
    """What its folder held when the step was planned; None where it is no folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_contents", contents_of(self.base_model))


def contents_of(base_model: str) -> str | None:
    """Sixteen hex digits of a folder; None for the embedded model and a Hugging Face id, whose names stand for them.

    Raises:
        BaseModelError: a file in it cannot be read.
    """
    folder = Path(base_model).expanduser()
    if base_model == "smollm2" or not folder.is_dir():
        return None
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())
        with ThreadPoolExecutor() as pool:
            held = [f"{path.name} {digest}" for path, digest in zip(files, pool.map(_digest, files), strict=True)]
    except OSError as error:
        raise BaseModelError(f"base model: {base_model!r} cannot be read ({error}); make its files readable") from error
    return hashlib.sha256("\n".join(held).encode()).hexdigest()[:16]


def check_contents(base_model: str, held: str | None) -> None:
    """Make sure that a folder holds what adapters were trained on; where nobody knows what that was, it passes.

    Raises:
        ConfigError: it holds something else by now.
    """
    found = contents_of(base_model)
    if held is not None and found is not None and found != held:
        raise ConfigError(
            f"run: its models began as what {base_model} held at their training, and other weights or another "
            "tokenizer lie there now; put the old ones back, or train again"
        )


def _digest(path: Path) -> str:
    found = path.stat()
    return _read(path.absolute(), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@cache
def _read(path: Path, *_: int) -> str:
    """Read once in a process, for as long as nobody writes to it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
