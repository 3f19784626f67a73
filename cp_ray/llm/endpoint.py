"""A model over HTTP: any server that speaks OpenAI's chat API.

Chat calls go over plain aiohttp, which takes a quarter of the CPU that the `openai` package takes for one; all else
(the list of models) goes through that package.

What may pass is tried again here, with jittered back-off: 429 (the whole cluster waits as long as the server says),
5xx, time-outs, dropped connections, answers that are no JSON. What one request got wrong, or still fails after all
attempts, becomes a completion without text and with a reason. What makes the teacher unusable (no server, no such
model, a refused key, an empty account) is a `TeacherError` in one line; a key never stands in a message.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp

from cp_ray.errors import TeacherDenied, TeacherError, TeacherUnknownModel, TeacherUnreachable
from cp_ray.llm.budget import Price
from cp_ray.llm.call import GAVE_UP, WITHHELD, Completion, Sampling, Token, Usage, ending, failure, storable
from cp_ray.llm.headers import retry_after, shown_limits
from cp_ray.records import Message

if TYPE_CHECKING:
    from cp_ray.llm.gate import Gate

__all__ = ["NO_KEY", "Endpoint", "check_key", "check_teacher", "told_logprobs"]

NO_KEY = "none"
"""Sent where the user has no key; servers of one's own do not ask for one."""

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_PATIENCE_S = 900.0
"""How long a call is willing to be told 429, from its first attempt on."""
_UNTOLD, _ASKS_LOGPROBS = "log-probabilities refused", b'"logprobs": true'
_EMPTY = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of an account that runs empty."""
_AGAIN = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529})


class Endpoint:
    """A `Generate` over HTTP. Made and used in one event loop."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        *,
        gate: "Gate | None" = None,
        price: Price | None = None,
        timeout_s: float = 120.0,
        attempts: int = 8,
        on_failure: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """`on_failure` is told of every attempt that failed, by kind."""
        self._url, self._model, self._gate, self._attempts = url, model, gate, attempts
        self._price, self._on_failure = price, on_failure
        self._headers = {"Authorization": f"Bearer {key or NO_KEY}", "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(30.0, timeout_s))
        self._session: aiohttp.ClientSession | None = None
        self._target = f"{url.rstrip('/')}/chat/completions"
        self._seen: tuple[str | None, ...] = ()
        self._untold: set[int | None] = set()  # how many log-probabilities the server refuses to tell

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat; without log-probabilities where the server refuses to tell them.

        Raises:
            TeacherError: the teacher cannot be used.
            CpRayError: the run is to stop.
        """
        sampling = replace(sampling, logprobs=None) if sampling.logprobs in self._untold else sampling
        body = _body(self._model, messages, sampling)
        tokens = sum(-(-len(m.content) // 4) + 4 for m in messages) + 3 + sampling.max_tokens
        most = self._price.most(messages, sampling.max_tokens) if self._price else 0.0
        asked, attempt, refused_connections, again = math.inf, 0, 0, False
        while True:
            generation = await self._gate.enter(tokens, most, again=again) if self._gate is not None else 0
            asked = min(asked, time.monotonic())  # its first turn may have been long in coming
            told = sampling.answer if sampling.prefilled else None
            outcome = await self._attempt(body, generation, most, told)
            if isinstance(outcome, Completion):
                return outcome
            again = True
            self._on_failure(outcome.kind)
            if outcome.kind == _UNTOLD:
                self._untold.add(sampling.logprobs)
                sampling = replace(sampling, logprobs=None)
                body = _body(self._model, messages, sampling)
                continue
            attempt += outcome.kind != "status 429"
            refused_connections += outcome.kind == "connection refused"
            if attempt >= self._attempts or time.monotonic() - asked > _PATIENCE_S:
                if refused_connections == self._attempts:
                    raise _unreachable(self._url)
                return failure(f"{GAVE_UP}: {outcome.kind}")
            await asyncio.sleep(_wait(outcome, attempt))

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, body: bytes, generation: int, most: float, told: str | None) -> "Completion | _Failed":
        """Ask, and leave the gate, which has been entered."""
        began, cost = time.monotonic(), 0.0
        try:
            status, headers, data = await self._post(body)
            if status == 200:
                answer = _completion(data, self._model, self._price, told)
                if answer is None:
                    return _Failed("broken answer")
                cost = answer.usd
                if self._gate is not None:
                    self._gate.answered(time.monotonic() - began, self._shown(headers))
                return answer
            if status == 429:
                return self._refused(headers, data, generation)
            if status in (400, 422) and b"logprobs" in data and _ASKS_LOGPROBS in body:
                return _Failed(_UNTOLD)
            return _Failed(f"status {status}") if status in _AGAIN else _settled(status, data, self._url, self._model)
        except TimeoutError:
            return _Failed("time-out")
        except aiohttp.ClientConnectorError as error:
            return _Failed("connection refused" if isinstance(error.os_error, ConnectionRefusedError) else "connection")
        except (aiohttp.ClientError, OSError):
            return _Failed("connection dropped")
        finally:
            if self._gate is not None:
                self._gate.leave(most, cost)

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        async with self._session.post(self._target, data=body) as reply:
            return reply.status, reply.headers, await reply.read()

    def _refused(self, headers: Mapping[str, str], data: bytes, generation: int) -> "_Failed":
        if _error(data).get("code") in _EMPTY:
            raise _empty(self._url)
        wait = retry_after(headers)
        if self._gate is not None:
            self._gate.refused(generation, wait, self._shown(headers))
        return _Failed("status 429", wait)

    def _shown(self, headers: Mapping[str, str]) -> Any:
        """What the headers show, where that differs from what they showed last."""
        seen = (headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens"))
        if seen == self._seen:
            return None
        self._seen = seen
        return shown_limits(headers)


class _Failed:
    """An attempt that came to nothing and may be made again."""

    __slots__ = ("kind", "wait_s")

    def __init__(self, kind: str, wait_s: float | None = None) -> None:
        self.kind, self.wait_s = kind, wait_s


def check_teacher(url: str, model: str, key: str | None) -> None:
    """Ask the server for its models, once, so that a wrong address, key or name is found before anything starts.

    A server that does not list models is taken as it is.

    Raises:
        TeacherError: nothing answers, the key is refused or can be none, or the model is not among those listed.
    """
    import openai

    check_key("OPENAI_API_KEY", key)
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


def check_key(variable: str, key: str | None) -> None:
    """Make sure that a key can stand in a request's header.

    Raises:
        TeacherDenied: it has a character that cannot, such as the end of a line of the file that it was read from.
    """
    for place, sign in enumerate(key or "", 1):
        if not "!" <= sign <= "~":
            raise TeacherDenied(
                f"{variable}: must be printable ASCII without spaces, got {sign!a} as its character {place}; "
                "set it again without that"
            )


def _body(model: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
    }
    if sampling.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": json.loads(sampling.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.prefilled:
        body["messages"].append({"role": "assistant", "content": sampling.answer})
        body |= {"add_generation_prompt": False, "prompt_logprobs": 0, "max_tokens": 1}
    elif sampling.answer is not None:
        body["structured_outputs"] = {"choice": [sampling.answer]}  # vLLM's name for it
    return _ENCODE(body).encode()


def _completion(data: bytes, model: str, price: Price | None, told: str | None) -> Completion | None:
    """The answer, which may have been told in the prompt, or None if it is not one."""
    try:
        reply = json.loads(data)
        choice, used = reply["choices"][0], reply.get("usage") or {}
        prompt = _prompt_logprobs(reply.get("prompt_logprobs"), told) if told else None
        message = {"content": told} if prompt else choice["message"]
        usage = Usage(int(used.get("prompt_tokens", 0)), int(used.get("completion_tokens", 0)))
        text = storable(message.get("content") or "")
        return Completion(
            text=text,
            finish_reason="refusal" if message.get("refusal") else ending(choice.get("finish_reason"), text),
            usage=usage,
            usd=price.cost(usage.prompt_tokens, usage.completion_tokens) if price else 0.0,
            model=model,
            logprobs=prompt or told_logprobs(choice.get("logprobs")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def told_logprobs(told: Any) -> tuple[Token, ...] | None:
    """Of each token; None where there are none, or an answer has no tokens."""
    content = told.get("content") if isinstance(told, dict) else None
    if not content:
        return None

    def pair(one: Any) -> tuple[str, float]:
        # A millionth tells log-probabilities apart well enough.
        return storable(str(one["token"])), round(float(one["logprob"]), 6)

    return tuple(Token(*pair(one), tuple(map(pair, one.get("top_logprobs") or ()))) for one in content)


def _prompt_logprobs(told: Any, answer: str) -> tuple[Token, ...] | None:
    """Of each token of a prompt that ends with an answer, up to the end of its turn, by the token's id.

    None where they are not told, or do not end so.
    """
    if not told:
        return None
    places = [one for place in told[1:] for one in list(place.items())[:1]]  # of the first there is none
    texts = [str(one["decoded_token"]) for _, one in places]
    while texts and texts[-1].isspace():  # what a template writes between turns
        texts.pop()
    said = "".join(texts)
    # Letters may be spread over several tokens, which alone are none.
    if answer.isascii() and (answer not in said or said.endswith(answer)):
        return None
    return tuple(Token(id, round(float(one["logprob"]), 6)) for id, one in places[: len(texts)])


def _settled(status: int, data: bytes, url: str, model: str) -> Completion:
    """What an answer with a final status means: an error of the whole run, or of this one request."""
    if status in (401, 403):
        raise _denied(url)
    if status == 404:
        raise TeacherUnknownModel(f"teacher-model: {url} has no model {model!r}; correct --teacher-model")
    error = _error(data)
    if status == 402 or error.get("code") in _EMPTY:
        raise _empty(url)
    if error.get("code") == WITHHELD:
        return failure(WITHHELD)
    if status == 400 and "response_format" in f"{error.get('param')} {error.get('message')}":
        raise TeacherError(f"structured: {url} takes no JSON schema for its answers; run with --structured no")
    return failure(f"refused with status {status}")


def _error(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _wait(failed: _Failed, attempt: int) -> float:
    if failed.kind == "status 429":
        # The gate holds everybody back; this spreads those who were refused together.
        return random.uniform(0.0, 0.2) + (0.0 if failed.wait_s is not None else random.uniform(0.2, 1.0))
    return random.uniform(0.5, 1.0) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1))


def _unreachable(url: str) -> TeacherUnreachable:
    return TeacherUnreachable(f"teacher-url: nothing answers at {url}; start the server or correct --teacher-url")


def _denied(url: str) -> TeacherDenied:
    return TeacherDenied(f"teacher-url: {url} refuses the key; put the right one into OPENAI_API_KEY")


def _empty(url: str) -> TeacherDenied:
    return TeacherDenied(f"teacher-url: the account at {url} has no money left; pay it up and run again")
