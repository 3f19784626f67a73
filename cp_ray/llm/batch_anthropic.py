"""Anthropic's batch interface: the requests in the call that creates a batch, the answers as one stream of lines."""

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp

from cp_ray.llm.batch_provider import (
    CLOCK_SLACK_S,
    Again,
    Candidate,
    Refused,
    Results,
    Transient,
    denied,
    no_answer,
    passes,
    told_to_wait,
    unknown_model,
)
from cp_ray.llm.call import Completion, Sampling, Usage, ending, storable
from cp_ray.records import Message

__all__ = ["AnthropicBatches"]

KEY_VARIABLE = "ANTHROPIC_API_KEY"

_VERSION = "2023-06-01"

_ENDINGS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}

_PASSING = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")
"""Errors of a request that another try may not meet again."""


class AnthropicBatches:
    """A `BatchProvider`. Used in one event loop."""

    most = 100_000
    most_bytes = 255_000_000

    def __init__(self, url: str, model: str, key: str | None) -> None:
        self.url, self._model, self._key = url, model, key
        self._batches = url.rstrip("/").removesuffix("/v1") + "/v1/messages/batches"
        self._opened: aiohttp.ClientSession | None = None

    def line(self, key: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
        """One member of `requests`."""
        params: dict[str, Any] = {
            "model": self._model,
            "max_tokens": sampling.max_tokens,
            "temperature": min(sampling.temperature, 1.0),  # the most that it takes; it has no seed
            "messages": _merged(m for m in messages if m.role != "system"),
        }
        if system := "\n\n".join(m.content for m in messages if m.role == "system"):
            params["system"] = system
        if schema := getattr(sampling, "schema", None):
            params["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(schema)}}
        return json.dumps({"custom_id": key, "params": params}, ensure_ascii=False).encode()

    async def create(self, digest: str, lines: Sequence[bytes]) -> str:
        """Start a batch.

        Raises:
            Refused: it is not taken.
        """
        made = json.loads(await self._ask("POST", "", b'{"requests":[' + b",".join(lines) + b"]}"))
        return str(made["id"])

    async def candidates(self, digest: str, size: int, since: float) -> list[Candidate]:
        """Batches of that time and size: there is nothing else to tell them by but their results."""
        found: list[Candidate] = []
        query = "?limit=100"
        while True:  # the newest first
            page = json.loads(await self._ask("GET", query))
            for batch in page["data"]:
                if _seconds(batch["created_at"]) < since - CLOCK_SLACK_S:
                    return found
                if sum(batch["request_counts"].values()) == size:
                    found.append(Candidate(batch["id"], sure=False))
            if not page.get("has_more"):
                return found
            query = f"?limit=100&after_id={page['last_id']}"

    async def ended(self, id: str) -> bool:
        """All its requests have come to an end."""
        try:
            return bool(json.loads(await self._ask("GET", f"/{id}"))["processing_status"] == "ended")
        except Refused as refusal:
            if refusal.status == 404:
                return True
            raise Transient(refusal.status) from refusal  # the batch stands; its poll is tried again

    async def results(self, id: str) -> Results:
        """The lines of its results.

        Raises:
            TeacherError: its requests were not allowed, or the model is not there.
        """
        try:
            # Not at the address in `results_url`, so that the key goes nowhere but where the user said.
            lines = (await self._ask("GET", f"/{id}/results")).split(b"\n")
        except Refused:  # they are kept for a month
            return Results({}, Again("the batch's answers are gone"))
        parsed = [json.loads(line) for line in lines if line.strip()]
        return Results({p["custom_id"]: self._outcome(p["result"]) for p in parsed}, Again("not in the results"))

    async def close(self) -> None:
        """Close its connections."""
        if self._opened is not None:
            await self._opened.close()

    def _outcome(self, result: dict[str, Any]) -> Completion | Again:
        if result["type"] == "succeeded":
            return _completion(result["message"])
        if result["type"] != "errored":
            return Again(f"batch {result['type']}")
        error = result["error"]
        kind = error.get("error", error).get("type", "error")
        if kind in ("authentication_error", "permission_error"):
            raise denied(self.url, KEY_VARIABLE)
        if kind == "not_found_error":
            raise unknown_model(self.url, self._model)
        return Again(f"refused as {kind}") if kind in _PASSING else no_answer(f"refused as {kind}")

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """A control call, its failures in our terms."""
        try:
            async with self._session().request(method, self._batches + path, data=body) as reply:
                content = await reply.read()
        except aiohttp.ClientConnectorError as error:
            raise Transient(None) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Transient(None, unsure=True) from error
        if reply.status < 300:
            return content
        if reply.status in (401, 403):
            raise denied(self.url, KEY_VARIABLE)
        if passes(reply.status):
            raise Transient(reply.status, told_to_wait(reply.headers), unsure=reply.status != 429)
        raise Refused(reply.status, content[:1000].decode(errors="replace"))

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            headers = {"anthropic-version": _VERSION, "content-type": "application/json"}
            self._opened = aiohttp.ClientSession(
                headers={**headers, "x-api-key": self._key or "none"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=600.0),
                trust_env=True,
            )
        return self._opened


def _merged(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages in which the roles alternate."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message.role:
            merged[-1]["content"] += "\n\n" + message.content
        else:
            merged.append({"role": message.role, "content": message.content})
    return merged


def _completion(message: dict[str, Any]) -> Completion:
    reason, usage = message.get("stop_reason") or "end_turn", message["usage"]
    text = storable("".join(part["text"] for part in message["content"] if part["type"] == "text"))
    return Completion(
        text=text,
        finish_reason=ending(_ENDINGS.get(reason, reason), text),
        usage=Usage(usage["input_tokens"], usage["output_tokens"]),
    )


def _seconds(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()
