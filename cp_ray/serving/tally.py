"""What the answers to a request take, counted as they come: so nothing is forgotten, however the request ends."""

from collections.abc import Sequence
from types import TracebackType

from cp_ray.serving.call import Call
from cp_ray.serving.chat import ChatRequest, Piece
from cp_ray.serving.openai_shapes import usage_of

__all__ = ["Tally"]

_BYTES = 4
"""Of a token, about."""


class Tally:
    """Tells a call its tokens.

    The engine says how many a prompt has with the first piece of its answer; until then they are estimated, since it
    computes them before that. Within a `with` that ends with an error the estimates are taken back: what the engine
    refuses costs nothing. What is given up is no error, but a cancellation.
    """

    def __init__(self, call: Call, requests: Sequence[ChatRequest], choices: int = 1) -> None:
        """Count the prompts.

        Args:
            call: whose answers they are.
            requests: what it is asked.
            choices: so many of the requests, one after the other, have the same prompt.
        """
        self._call, self._choices = call, choices
        self._expected = {k: _about(request) for k, request in enumerate(requests[::choices])}
        self._told = (0, 0)
        self.last: dict[int, Piece] = {}
        """The last piece of each answer."""
        self._tell()

    def heard(self, index: int, piece: Piece) -> None:
        """A piece of the answer `index` has come."""
        self.last[index] = piece
        self._expected.pop(index // self._choices, None)
        self._tell()

    def __enter__(self) -> "Tally":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._expected.clear()
            self._tell()

    def _tell(self) -> None:
        usage = usage_of(self.last, self._choices)
        prompts, drawn = usage["prompt_tokens"] + sum(self._expected.values()), usage["completion_tokens"]
        self._call.took(prompts - self._told[0], drawn - self._told[1])
        self._told = (prompts, drawn)


def _about(request: ChatRequest) -> int:
    texts = [request.text or "", *(message.content for message in request.messages)]
    return 1 + sum(len(text.encode()) for text in texts) // _BYTES
