"""What clients send, as OpenAI's API has it.

A field of that API that would change the answer, and does not here, is refused rather than ignored; fields that it does
not have are ignored.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ChatBody",
    "ChatMessage",
    "CompletionBody",
    "EmbeddingBody",
    "ModerationBody",
    "Sampling",
    "Text",
    "culture_of",
]

C = TypeVar("C")

_STOPS, _CHOICES, _TEXTS, _INPUTS, _MESSAGES, _OPTIONS = 4, 8, 256, 2_048, 1_000, 64
_LONGEST = 400_000
"""Characters of one text."""


Text = Annotated[str, Field(max_length=_LONGEST)]
"""A text; pydantic refuses half of a surrogate pair, which JSON can spell and no tokenizer takes."""
Ratio = Annotated[float, Field(allow_inf_nan=False)]
Tokens = Annotated[
    int,
    Field(
        ge=1,
        le=2**31 - 1,
        description="The longest answer; the context may end it sooner. Left out, it is the server's `answer_tokens` "
        "for a chat (256 unless set otherwise), and 16 for a text. At most the server's `max_answer_tokens` (4096).",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextPart(_Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=_TEXTS)]


class JsonSchema(_Body):
    """A schema under OpenAI's name for it."""

    name: Text = "answer"
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    """What the answer has to be like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """What the answer may be, as vLLM has it."""

    choice: Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=_OPTIONS)]
    """It is one of these, word for word; its log-probabilities are those of the free model. The request's `max_tokens`
    does not cut it; none may have more tokens than the server's `max_answer_tokens`."""

    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Body):
    """How the answer is streamed."""

    include_usage: bool | None = None


class Metadata(_Body):
    """What a client notes on a request."""

    culture: Text | None = None


def culture_of(own: C | None, metadata: Metadata | None, headers: Mapping[str, str]) -> C | str:
    """Whose point of view is asked for: the body's `own` goes before the header's, and that before the metadata's."""
    return own or headers.get("x-cp-culture") or (metadata and metadata.culture) or ""


class Sampling(_Body):
    """What chat completions and completions have in common."""

    model: Text = "auto"
    """A culture, one of its aliases, `unified`, `base`, or `auto`, which finds the culture."""
    culture: Text | None = None
    """For `auto`: whose model answers."""
    metadata: Metadata | None = None
    temperature: Annotated[Ratio, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    frequency_penalty: Annotated[Ratio, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[Ratio, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        several = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in several if stop)


class ChatBody(Sampling):
    """The body of a chat completion request."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "german", "messages": [{"role": "user", "content": "What matters most in life?"}]}]
        }
    )


class CompletionBody(Sampling):
    """The body of a completion request: a text to go on with."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=_CHOICES)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "base", "prompt": "Once upon a time"}]})


class EmbeddingBody(_Body):
    """The body of an embedding request."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=_INPUTS)]
    model: Text = "minilm"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "minilm", "input": "A town by the sea."}]})


class ModerationBody(_Body):
    """The body of a moderation request."""

    input: Text | Annotated[list[Text | TextPart], Field(min_length=1, max_length=32)]
    model: Text | None = None
    culture: Text | Annotated[list[Text], Field(min_length=1, max_length=32)] | None = None
    """From whose point of view: a culture, several to compare, or `all`."""
    metadata: Metadata | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": "You people are all the same.", "culture": ["german", "arabic"]}]}
    )
