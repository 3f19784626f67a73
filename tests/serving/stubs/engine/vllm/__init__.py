"""What Ray's LLM serving imports of vLLM, where vLLM is not installed: its names and the shapes that are used here.

Requests refuse fields that vLLM's have not, which vLLM itself would ignore.
"""

import dataclasses
import sys
import types
import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Asked):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class StructuredOutputsParams(_Asked):
    json_: str | None = Field(None, alias="json")
    choice: list[str] | None = None


class CompletionRequest(_Asked):
    model: str
    prompt: list[int]
    logprobs: int | None = None
    max_tokens: int
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float
    top_p: float = 1.0
    stop_token_ids: list[int] = []
    allowed_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    priority: int = 0
    cache_salt: str | None = Field(None, min_length=1)
    request_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    return_tokens_as_token_ids: bool | None = None


class CompletionLogProbs(BaseModel):
    text_offset: list[int] = []
    token_logprobs: list[float | None] = []
    tokens: list[str] = []
    top_logprobs: list[dict[str, float] | None] = []


class CompletionChoice(BaseModel):
    index: int = 0
    text: str
    logprobs: CompletionLogProbs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class PromptTokenUsageInfo(BaseModel):
    cached_tokens: int | None = None


class UsageInfo(BaseModel):
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptTokenUsageInfo | None = None


class CompletionResponse(BaseModel):
    id: str = "cmpl-1"
    object: str = "text_completion"
    created: int = 0
    model: str
    choices: list[CompletionChoice]
    usage: UsageInfo | None = None


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    error: ErrorInfo


class VLLMClientError(Exception):
    """A request's own fault."""


@dataclasses.dataclass
class AsyncEngineArgs:
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    enable_prefix_caching: bool | None = None
    kv_cache_memory_bytes: int | None = None
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    scheduling_policy: str = "fcfs"
    generation_config: str = "auto"
    logprobs_mode: str = "raw_logprobs"
    structured_outputs_config: Any = None


@dataclasses.dataclass
class FrontendArgs:
    enable_prompt_tokens_details: bool = False


_SHAPES: dict[str, dict[str, Any]] = {
    "vllm.entrypoints.openai.completion.protocol": {
        "CompletionRequest": CompletionRequest,
        "CompletionResponse": CompletionResponse,
        "CompletionStreamResponse": CompletionResponse,
    },
    "vllm.entrypoints.serve.engine.protocol": {"ErrorInfo": ErrorInfo, "ErrorResponse": ErrorResponse},
    "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
    "vllm.entrypoints.launchers.cli_args": {"FrontendArgs": FrontendArgs},
    "vllm.exceptions": {"VLLMClientError": VLLMClientError},
}
_UNUSED: dict[str, tuple[str, ...]] = {
    "vllm.entrypoints.openai.chat_completion.protocol": (
        "ChatCompletionRequest",
        "ChatCompletionResponse",
        "ChatCompletionStreamResponse",
    ),
    "vllm.entrypoints.pooling.embed.protocol": (
        "EmbeddingChatRequest",
        "EmbeddingCompletionRequest",
        "EmbeddingResponse",
    ),
    "vllm.entrypoints.pooling.scoring.protocol": ("ScoreResponse", "ScoreTextRequest"),
    "vllm.entrypoints.serve.tokenize.protocol": (
        "DetokenizeRequest",
        "DetokenizeResponse",
        "TokenizeChatRequest",
        "TokenizeCompletionRequest",
        "TokenizeResponse",
    ),
    "vllm.entrypoints.speech_to_text.transcription.protocol": (
        "TranscriptionRequest",
        "TranscriptionResponse",
        "TranscriptionStreamResponse",
    ),
}


def _module(name: str, content: dict[str, Any]) -> None:
    parent, _, last = name.rpartition(".")
    if parent not in sys.modules:
        _module(parent, {})
    module = sys.modules.setdefault(name, types.ModuleType(name))
    module.__path__ = []
    module.__dict__.update(content)
    setattr(sys.modules[parent], last, module)


for _name, _content in _SHAPES.items():
    _module(_name, _content)
for _name, _classes in _UNUSED.items():
    _module(_name, {each: type(each, (BaseModel,), {"__module__": _name}) for each in _classes})
