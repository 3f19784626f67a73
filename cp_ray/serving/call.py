"""One request, from when it comes until its answer has gone: what is logged and counted of it."""

import json
import logging
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cp_ray.serving.keys import Key

__all__ = ["Call", "RequestLog"]


@dataclass(slots=True)
class Call:
    """A request."""

    method: str
    path: str
    route: str = "other"
    """The path as the API has it, for metrics: a client cannot make up more of them."""
    id: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    key: Key | None = None
    model: str = ""
    version: str = ""
    why: str = ""
    """Why this model was chosen."""
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_s: float | None = None
    """Seconds until the first piece of an answer that is streamed."""
    seconds: float = 0.0
    error: str = ""
    prompt: str | None = None
    """Kept if prompts are logged."""
    began: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """Of the prompt and the answer."""
        return self.prompt_tokens + self.completion_tokens

    def took(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer, or a part of one."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def first(self) -> None:
        """A piece of the answer is there."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self.began

    def end(self) -> None:
        """It is over."""
        self.seconds = time.monotonic() - self.began


class RequestLog:
    """A line of JSON for each request. It says nothing of what was asked, unless prompts are to be logged."""

    def __init__(self, target: str, *, prompts: bool) -> None:
        """Write.

        Args:
            target: a file, `-` for the standard output, or empty for nowhere.
            prompts: whether prompts are logged.
        """
        self.prompts = prompts and bool(target)
        self._logger = logging.Logger("cp_ray.requests", logging.INFO if target else logging.CRITICAL)
        if target:
            handler = (
                logging.StreamHandler(sys.stdout)
                if target == "-"
                else logging.FileHandler(Path(target).expanduser(), encoding="utf-8")
            )
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._logger.addHandler(handler)

    def write(self, call: Call) -> None:
        """Log a request that has ended."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        line = {
            "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": call.id,
            "key": call.key.name if call.key else None,
            "method": call.method,
            "path": call.path[:200],
            "status": call.status,
            "model": call.model or None,
            "version": call.version or None,
            "why": call.why or None,
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "first_s": round(call.first_s, 4) if call.first_s is not None else None,
            "seconds": round(call.seconds, 4),
            "error": call.error or None,
        }
        if call.prompt is not None:
            line["prompt"] = call.prompt
        # In ASCII: what a client sends may not break a line, nor steer the terminal of who reads it.
        self._logger.info(json.dumps({k: v for k, v in line.items() if v is not None}))
