"""OpenAI's batch interface, through the `openai` package: a file of requests in, files of answers out."""

import json
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, TypeVar

import openai
from openai.types import Batch

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
    patiently,
    told_to_wait,
    unknown_model,
)
from cp_ray.llm.call import Completion, Sampling, Usage, ending, storable
from cp_ray.llm.endpoint import told_logprobs
from cp_ray.records import Message

__all__ = ["OpenAIBatches"]

T = TypeVar("T")

KEY_VARIABLE = "OPENAI_API_KEY"

_MARK = "cp_ray"
"""Under which a batch's metadata carries our digest of it."""

_OVER = ("completed", "failed", "expired", "cancelled")


class OpenAIBatches:
    """A `BatchProvider`. Made and used in one event loop."""

    most = 50_000
    most_bytes = 199_000_000

    def __init__(self, url: str, model: str, key: str | None) -> None:
        self.url, self._model = url, model
        self._tells_logprobs = True
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key or "none",
            max_retries=0,
            timeout=600.0,
            http_client=openai.DefaultAioHttpClient(timeout=600.0),
        )

    def line(self, key: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
        """One line of the file."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
        }
        if schema := getattr(sampling, "schema", None):
            answer = {"name": "answer", "strict": True, "schema": json.loads(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        if sampling.logprobs is not None and self._tells_logprobs:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        request = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(request, ensure_ascii=False).encode()

    async def create(self, digest: str, lines: Sequence[bytes]) -> str:
        """Upload the requests and start a batch over them.

        Raises:
            Refused: it is not taken.
        """
        file = (f"{digest}.jsonl", b"\n".join(lines) + b"\n")
        # A file is free, so that its upload can be tried again without looking for what became of the last try.
        upload = await patiently(
            lambda: self._ask(self._client.files.create(file=file, purpose="batch")),
            self.url,
        )
        batch = await self._ask(
            self._client.batches.create(
                input_file_id=upload.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_MARK: digest},
            )
        )
        return batch.id

    async def candidates(self, digest: str, size: int, since: float) -> list[Candidate]:
        """The batch whose metadata has the digest, if there is one."""
        return await self._ask(self._marked(digest, since))

    async def ended(self, id: str) -> bool:
        """Its status is a last one."""
        try:
            return (await self._ask(self._client.batches.retrieve(id))).status in _OVER
        except Refused as refusal:
            if refusal.status == 404:
                return True
            raise Transient(refusal.status) from refusal  # the batch stands; its poll is tried again

    async def results(self, id: str) -> Results:
        """The lines of its output and of its error file.

        Raises:
            TeacherError: its requests were not allowed, or the model is not there.
        """
        found: dict[str, Completion | Again] = {}
        try:
            batch = await self._ask(self._client.batches.retrieve(id))
            self._usable(batch)
            for file in (batch.output_file_id, batch.error_file_id):
                if file is not None:
                    content = await self._ask(self._client.files.content(file))
                    found.update(self._outcomes(content.content))
        except Refused:  # its files are kept for a month
            return Results({}, Again("the batch's answers are gone"))
        return Results(found, Again(f"batch {batch.status}{_why(batch)}"))

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def _marked(self, digest: str, since: float) -> list[Candidate]:
        async for batch in self._client.batches.list(limit=100):  # the newest first
            if batch.created_at < since - CLOCK_SLACK_S:
                break
            if (batch.metadata or {}).get(_MARK) == digest:
                return [Candidate(batch.id, sure=True)]
        return []

    def _usable(self, batch: Batch) -> None:
        for error in (batch.errors and batch.errors.data) or ():
            if error.code == "model_not_found":
                raise unknown_model(self.url, self._model)

    def _outcomes(self, lines: bytes) -> Iterator[tuple[str, Completion | Again]]:
        for line in lines.split(b"\n"):
            if line.strip():
                fields = json.loads(line)
                yield fields["custom_id"], self._outcome(fields)

    def _outcome(self, line: dict[str, Any]) -> Completion | Again:
        reply = line.get("response")
        if reply is None:  # it was never run: `batch_expired`, `batch_cancelled`
            return Again(str((line.get("error") or {}).get("code") or "not run"))
        status, body = reply["status_code"], reply.get("body") or {}
        if status == 200:
            return _completion(body)
        error = body.get("error") or {}
        code = error.get("code")
        if status in (401, 403):
            raise denied(self.url, KEY_VARIABLE)
        if code == "model_not_found" or status == 404:
            raise unknown_model(self.url, self._model)
        if passes(status):
            return Again(f"refused with status {status}")
        if status in (400, 422) and "logprobs" in f"{error.get('param')} {error.get('message')}":
            self._tells_logprobs = False  # the next batch does not ask for them
            return Again("log-probabilities refused")
        return no_answer("content_filter" if code == "content_filter" else f"refused with status {status}")

    async def _ask(self, call: Awaitable[T]) -> T:
        """A control call, its failures in our terms."""
        try:
            return await call
        except openai.APIConnectionError as error:  # a time-out is one, too
            raise Transient(None, unsure=not _refused(error)) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise denied(self.url, KEY_VARIABLE) from error
        except openai.APIStatusError as error:
            status = error.status_code
            if error.code == "model_not_found":
                raise unknown_model(self.url, self._model) from error
            if passes(status):
                raise Transient(status, told_to_wait(error.response.headers), unsure=status != 429) from error
            raise Refused(status, error.message) from error


def _completion(body: dict[str, Any]) -> Completion:
    choice, usage = body["choices"][0], body.get("usage") or {}
    message = choice["message"]
    text = storable(message.get("content") or "")
    return Completion(
        text=text,
        finish_reason="refusal" if message.get("refusal") else ending(choice.get("finish_reason"), text),
        usage=Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)),
        logprobs=told_logprobs(choice.get("logprobs")),
    )


def _why(batch: Batch) -> str:
    codes = {error.code for error in (batch.errors and batch.errors.data) or () if error.code}
    return f": {', '.join(sorted(codes))}" if codes else ""


def _refused(error: openai.APIError) -> bool:
    """The aiohttp transport calls a refused connection a time-out; what it was stands behind it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
