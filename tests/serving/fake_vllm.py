"""An engine for Ray's LLMServer with vLLM's requests and responses, on a model so small that it needs no cache."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from ray.llm._internal.serve.core.engine.protocol import LLMEngine
from ray.serve.llm.openai_api_models import CompletionResponse, ErrorResponse

from cp_ray.peft_folder import rank_of
from cp_ray.serving.guide import Guides
from cp_ray.serving.text import Writer
from tests.serving.stubs import BROKEN, REFUSED, SLOW

_WHOLE = 6
"""Tokens of which some are whole letters; half of one is not told yet."""


class FakeEngine(LLMEngine):
    """Draws a token at a time and tells it as vLLM does."""

    def __init__(self, llm_config: Any) -> None:
        self._config = llm_config
        self._adapters: dict[str, str] = {}
        self._running: set[str] = set()
        self._kept: list[tuple[str, str | None, list[int]]] = []

    async def start(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = self._config.get_engine_config().hf_model_id
        self._most = self._config.engine_kwargs["max_model_len"]
        if self._config.engine_kwargs["kv_cache_memory_bytes"] > 2**40:
            raise RuntimeError("Engine core initialization failed.\nSee root cause above.")
        auto: Any = AutoModelForCausalLM
        self._model = auto.from_pretrained(source, dtype=torch.float32).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        end = self._tokenizer.eos_token_id
        self._guides = Guides(self._tokenizer, self._model.config.vocab_size, {end})

    async def resolve_lora(self, lora_model: Any) -> None:
        from peft import PeftModel

        name, rank = f"a{len(self._adapters)}", rank_of("", Path(lora_model.local_path))
        if rank > self._config.engine_kwargs["max_lora_rank"]:
            raise ValueError(f"Failed to load lora model: LoRA rank {rank} is greater than max_lora_rank")
        if self._adapters:
            self._model.load_adapter(lora_model.local_path, name)
        else:
            self._model = PeftModel.from_pretrained(self._model, lora_model.local_path, name)
        self._adapters[lora_model.model_id] = name

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        wrong = self._wrong(request)
        if wrong is not None:
            yield ErrorResponse.model_validate({"error": wrong})
            return
        self._running.add(request.request_id)
        details = {"cached_tokens": self._cached(request)}
        try:
            told = [self._chunk(request, *step) async for step in self._draw(request)] if not request.stream else []
            if told:
                yield _whole(told, details)
                return
            drawn = 0
            async for step in self._draw(request):
                yield f"data: {json.dumps(self._chunk(request, *step))}\n\n"
                drawn += 1
                if request.top_p == BROKEN and drawn == _WHOLE:
                    broken = {"message": "CUDA error\nat line 1", "type": "InternalServerError", "code": 500}
                    yield f"data: {json.dumps({'error': broken})}\n\n"
            usage = {"prompt_tokens": len(request.prompt), "prompt_tokens_details": details}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self._running.discard(request.request_id)

    def _wrong(self, request: Any) -> dict[str, Any] | None:
        if request.request_id in self._running:
            return {"message": "request id is already running", "type": "BadRequestError", "code": 400}
        if request.top_p == REFUSED:
            return {"message": "this\ncannot be", "type": "BadRequestError", "code": 400}
        if len(request.prompt) + request.max_tokens > self._most:
            return {"message": "maximum context length", "type": "BadRequestError", "code": 400}
        if request.model not in (self._config.model_id, *self._adapters):
            return {"message": f"The model {request.model} does not exist", "type": "NotFoundError", "code": 404}
        return None

    def _cached(self, request: Any) -> int:
        """Tokens of the prompt known from requests of the same salt."""
        known = [ids for *whose, ids in self._kept if whose == [request.model, request.cache_salt]]
        self._kept.append((request.model, request.cache_salt, request.prompt))
        return max((min(_common(ids, request.prompt), len(ids) - 1) for ids in known), default=0)

    async def _draw(self, request: Any) -> AsyncIterator[tuple[int, int, str, Any, str]]:
        """Steps: tokens so far, the token, its text, the log-probabilities, why it ended."""
        drawn: list[int] = []
        writer = Writer(self._tokenizer, request.stop)
        random = torch.Generator().manual_seed(request.seed or 0)
        asked = request.structured_outputs
        guide = self._guides.of(asked.json_) if asked and asked.json_ else None
        for _ in range(request.max_tokens):
            await asyncio.sleep(0.1 if request.max_tokens == SLOW else 0)
            logits = self._logits(request.model, [*request.prompt, *drawn])
            if guide is not None:
                guide.restrict(logits)
            if asked and asked.choice:
                _allow(logits, self._next(asked.choice, drawn))
            logprobs = torch.log_softmax(logits, -1)  # among what a grammar lets through
            if request.allowed_token_ids:
                _allow(logits, request.allowed_token_ids)
            if request.temperature:
                token = int(torch.multinomial(torch.softmax(logits / request.temperature, -1), 1, generator=random))
            else:
                token = int(logits.argmax())
            drawn.append(token)
            ended = bool(guide is not None and guide.follow(token)) or token in request.stop_token_ids
            full = len(drawn) == request.max_tokens
            text = "" if token in request.stop_token_ids else writer.push(token)
            text += writer.end() if ended or full else ""
            reason = "stop" if ended or writer.stopped else "length" if full else ""
            yield len(drawn), token, text, logprobs, reason
            if reason:
                return

    @torch.no_grad()
    def _logits(self, model: str, ids: list[int]) -> Any:
        batch = torch.tensor([ids])
        if model in self._adapters:
            self._model.set_adapter(self._adapters[model])
            return self._model(batch).logits[0, -1].clone()
        if not self._adapters:
            return self._model(batch).logits[0, -1].clone()
        with self._model.disable_adapter():
            return self._model(batch).logits[0, -1].clone()

    def _next(self, choices: list[str], drawn: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        spelt = [[*self._tokenizer(choice)["input_ids"], end] for choice in choices]
        return [ids[len(drawn)] for ids in spelt if ids[: len(drawn)] == drawn and len(ids) > len(drawn)]

    def _chunk(self, request: Any, count: int, token: int, text: str, logprobs: Any, reason: str) -> dict[str, Any]:
        told = None
        if request.logprobs is not None:
            best = logprobs.topk(request.logprobs) if request.logprobs else None
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
            likeliest = {f"token_id:{token}": float(logprobs[token])} | {f"token_id:{k}": v for k, v in pairs}
            told = {
                "tokens": [f"token_id:{token}"],
                "token_logprobs": [float(logprobs[token])],
                "top_logprobs": [likeliest],
                "text_offset": [0],
            }
        choice = {"index": 0, "text": text, "logprobs": told, "finish_reason": reason or None, "stop_reason": None}
        usage = {"prompt_tokens": len(request.prompt), "completion_tokens": count}
        return {"model": request.model, "choices": [choice], "usage": usage}

    async def is_sleeping(self) -> bool:
        return not self._running

    async def check_health(self) -> None:
        return None

    def routing_stats(self) -> dict[str, Any]:
        return {}

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        raise NotImplementedError
        yield

    async def embeddings(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        raise NotImplementedError
        yield

    async def transcriptions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # type: ignore[override]
        raise NotImplementedError
        yield

    async def reset_prefix_cache(self) -> None:
        return None


def _common(a: list[int], b: list[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _allow(logits: torch.Tensor, tokens: list[int]) -> None:
    kept = logits[tokens]
    logits.fill_(float("-inf"))
    logits[tokens] = kept


def _whole(chunks: list[dict[str, Any]], details: dict[str, int]) -> CompletionResponse:
    last = chunks[-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    logprobs = {name: [value for one in told for value in one[name]] for name in told[0]} if told else None
    choice = choices[-1] | {"text": "".join(c["text"] for c in choices), "logprobs": logprobs}
    usage = last["usage"] | {"prompt_tokens_details": details}
    found: CompletionResponse = CompletionResponse.model_validate(last | {"choices": [choice], "usage": usage})
    return found
