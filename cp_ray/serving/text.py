"""An answer's text as its tokens come: whole characters only, and nothing that a stop string may begin."""

from collections.abc import Sequence
from typing import Any

__all__ = ["Writer"]

_BROKEN = "\ufffd"
"""What a decoder writes for a character whose bytes are not all there."""


class Writer:
    """Turns one answer's tokens into text."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._ids: list[int] = []
        # Some tokenizers write a token otherwise at the beginning of a text: it is decoded after the one before it.
        self._start = self._read = 0
        self._held = ""
        self.stopped = False
        """Whether a stop string has come."""

    def push(self, token: int) -> str:
        """The text that is certain now that a token has come."""
        self._ids.append(token)
        return self._release(self._fresh(last=False), last=False)

    def end(self) -> str:
        """The rest of the text; no token follows."""
        return self._release(self._fresh(last=True), last=True)

    def _fresh(self, *, last: bool) -> str:
        """Text of the tokens that have not been read."""
        if self._read == len(self._ids):
            return ""
        before, text = self._decode(self._ids[self._start : self._read]), self._decode(self._ids[self._start :])
        if text.endswith(_BROKEN) and not last:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True) if ids else ""
        return text

    def _release(self, fresh: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + fresh
        cuts = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.stopped = bool(cuts)
        keep = min(cuts) if cuts else len(text) if last else len(text) - _possible(text, self._stops)
        self._held = "" if cuts else text[keep:]
        return text[:keep]


def _possible(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that a stop string may begin with."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
