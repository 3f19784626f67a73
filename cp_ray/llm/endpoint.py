"""A model over HTTP: any server that speaks OpenAI's chat API, through the `openai` package.

What may pass is tried again here, with jittered back-off: 429 (as long as the server says), 5xx, time-outs, dropped
connections. What one request got wrong becomes a completion without text. What makes the teacher unusable (no server,
no such model, a refused key) is a `TeacherError` in one line; a key never stands in a message.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import openai

from cp_ray.errors import TeacherDenied, TeacherError, TeacherUnknownModel, TeacherUnreachable
from cp_ray.llm.call import Completion, Sampling, Usage
from cp_ray.records import Message

if TYPE_CHECKING:
    from cp_ray.llm.limiter import SharedLimiter

__all__ = ["NO_KEY", "Endpoint", "check_teacher"]

NO_KEY = "none"
"""Sent where the user has no key; servers of one's own do not ask for one."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


class Endpoint:
    """A `Generate` over HTTP. Made and used in one event loop."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        *,
        limiter: "SharedLimiter | None" = None,
        timeout_s: float = 120.0,
        attempts: int = 8,
    ) -> None:
        self._url, self._model, self._limiter, self._attempts = url, model, limiter, attempts
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key or NO_KEY,
            max_retries=0,
            timeout=timeout_s,
            http_client=openai.DefaultAioHttpClient(timeout=timeout_s),
        )

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat.

        Raises:
            TeacherError: the teacher cannot be used, or still fails after all attempts.
        """
        estimate = sum(len(m.content) // 4 + 4 for m in messages) + sampling.max_tokens
        for attempt in range(1, self._attempts + 1):
            if self._limiter is not None:
                await self._limiter.acquire(estimate)
            try:
                answer = await self._ask(messages, sampling)
            except openai.APIConnectionError as error:  # a time-out is one, too
                failure: openai.APIError = error
            except (openai.RateLimitError, openai.InternalServerError) as error:
                failure = error
            except openai.APIStatusError as error:
                return _settled(error, self._url, self._model)
            else:
                if self._limiter is not None:
                    self._limiter.settle(estimate, answer.usage.prompt_tokens + answer.usage.completion_tokens)
                return answer
            if attempt < self._attempts:
                await self._wait(failure, attempt)
        raise _gave_up(failure, self._url, self._attempts) from failure

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def _ask(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        reply: Any = await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": m.role, "content": m.content} for m in messages],  # type: ignore[misc]
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
        )
        choice, usage = reply.choices[0], reply.usage
        return Completion(
            text=choice.message.content or "",
            finish_reason="refusal" if getattr(choice.message, "refusal", None) else choice.finish_reason or "stop",
            usage=Usage(usage.prompt_tokens, usage.completion_tokens) if usage else Usage(0, 0),
        )

    async def _wait(self, failure: openai.APIError, attempt: int) -> None:
        told = _retry_after(failure)
        if told is not None and self._limiter is not None:
            self._limiter.pause(told)
        grown = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
        await asyncio.sleep((told or 0.0) + random.uniform(0.5, 1.0) * (grown if told is None else _FIRST_WAIT_S))


def check_teacher(url: str, model: str, key: str | None) -> None:
    """Ask the server for its models, once, so that a wrong address, key or name is found before anything starts.

    A server that does not list models is taken as it is.

    Raises:
        TeacherError: nothing answers, the key is refused, or the model is not among those listed.
    """
    client = openai.OpenAI(base_url=url, api_key=key or NO_KEY, max_retries=1, timeout=10.0)
    try:
        listed = [m.id for m in client.models.list()]
    except openai.APIConnectionError as error:
        raise _unreachable(url) from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise _denied(url) from error
    except openai.APIStatusError as error:
        if error.status_code in (404, 405):
            return
        raise TeacherError(f"teacher-url: {url} answers with status {error.status_code}; is it up?") from error
    finally:
        client.close()
    if listed and model not in listed:
        shown = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
        raise TeacherUnknownModel(f"teacher-model: {url} has no model {model!r}; it has {shown}")


def _settled(error: openai.APIStatusError, url: str, model: str) -> Completion:
    """What an answer with a final status means: an error of the whole run, or of this one request."""
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        raise _denied(url) from error
    if isinstance(error, openai.NotFoundError):
        raise TeacherUnknownModel(f"teacher-model: {url} has no model {model!r}; correct --teacher-model") from error
    if error.code == "content_filter":
        return Completion("", "content_filter", Usage(0, 0))
    return Completion("", f"refused with status {error.status_code}", Usage(0, 0))


def _retry_after(error: openai.APIError) -> float | None:
    """Seconds that a 429 asks to wait, if it says so."""
    if not isinstance(error, openai.RateLimitError):
        return None
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(float(headers[name]) * unit, 120.0)
        except (KeyError, ValueError):
            continue
    return None


def _gave_up(error: openai.APIError, url: str, attempts: int) -> TeacherError:
    if isinstance(error, openai.APITimeoutError) and not _refused(error):
        return TeacherUnreachable(f"teacher-url: {url} timed out {attempts} times; the run goes on where it was")
    if isinstance(error, openai.APIConnectionError):
        return _unreachable(url)
    status = getattr(error, "status_code", "?")
    return TeacherError(
        f"teacher-url: {url} answered {attempts} times with status {status}; wait, or lower --rpm, and run again"
    )


def _refused(error: openai.APIError) -> bool:
    """The aiohttp transport calls a refused connection a time-out; what it was stands behind it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _unreachable(url: str) -> TeacherUnreachable:
    return TeacherUnreachable(f"teacher-url: nothing answers at {url}; start the server or correct --teacher-url")


def _denied(url: str) -> TeacherDenied:
    return TeacherDenied(f"teacher-url: {url} refuses the key; put the right one into OPENAI_API_KEY")
