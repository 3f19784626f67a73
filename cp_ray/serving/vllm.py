"""vLLM in the engine's place, run by Ray Serve's own integration (ray.serve.llm).

It is asked as `cp_ray.serving.replica.Replica` is, so that the gateway is the same for both. To be imported only where
the extra `vllm` is installed.

Adapters come from the folders and buckets that the other engine reads, under the names of their versions. Ray's own
loading by name reads one bucket only, and nothing on disk. vLLM keeps those used last on the base and in memory.
"""

import asyncio
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from cp_ray.errors import BaseModelError
from cp_ray.llm.embedded import compute_dtype, load_configs, load_tokenizer, resolve_base
from cp_ray.peft_folder import rank_of
from cp_ray.serving.chat import BadRequest, ChatRequest, Load, Piece, TokenLogprob
from cp_ray.serving.guide import Choices
from cp_ray.serving.replica import Wrong, fetch, few, wrong
from cp_ray.serving.rows import Prepare, Row, end_tokens
from cp_ray.serving.spec import ServeSpec, Settings
from cp_ray.serving.uses import Uses
from cp_ray.serving.vectors import Vectors
from cp_ray.serving.vllm_shapes import asked, asked_given, bodies, drawn_tokens, given_logprob, pieces

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["VLLMReplica", "deployment", "llm_config"]

_BASE = "base"
_ADAPTER = "adapter/"
"""In front of an adapter's name, so that none can be the base's."""
_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Highest ranks of adapters that vLLM makes room for, from its own default on."""
_CPU_BLOCK = 128
"""Tokens of a block of its cache on CPUs; of all blocks one is its own, and one may be filled in part."""


def deployment(spec: ServeSpec, settings: Settings, options: dict[str, Any]) -> "Application":
    """The engine's deployment.

    Args:
        spec: the base and its models.
        settings: how it is served.
        options: Ray Serve's, its name and number of replicas among them.
    """
    application: Application = build_llm_deployment(
        llm_config(spec, settings, options),
        deployment_cls=VLLMReplica,
        bind_kwargs={"spec": spec, "settings": settings},
        override_serve_options={"name": options["name"]},  # the builder would put its class in front
    )
    return application


def llm_config(spec: ServeSpec, settings: Settings, options: dict[str, Any]) -> LLMConfig:
    """What Ray's integration is told; a replica adds what only its own look at the base and the adapters tells."""
    gpus = int(settings.num_gpus)
    accelerator: Any = {"kind": "gpu" if gpus else "cpu"}
    return LLMConfig(
        model_loading_config={"model_id": _BASE, "model_source": resolve_base(spec.base)},
        accelerator_config=accelerator,
        deployment_config={**options, "ray_actor_options": {"num_cpus": settings.num_cpus}},
        experimental_configs={"stream_batching_interval_ms": 0},  # a token is told when it is there
        engine_kwargs={
            "dtype": settings.dtype or "auto",
            "tensor_parallel_size": max(1, gpus),
            "max_num_seqs": settings.max_rows,
            "enable_prefix_caching": settings.prefix_mib > 0,
            "enable_lora": True,
            "max_loras": settings.max_adapters,
            "scheduling_policy": "priority",
            "generation_config": "vllm",  # a model's makers have sampling of their own; nobody asked for it here
            "logprobs_mode": "raw_logprobs",  # of the free model, at temperature 1
            "structured_outputs_config": {"backend": "guidance"},  # llguidance, as in the other engine
            "enable_prompt_tokens_details": True,
        },
    )


def _on_cpus(shape: Any, settings: Settings) -> dict[str, Any]:
    """What vLLM is told where it has no GPU.

    By itself it would take nearly all memory of the machine, or not start where others use some, and would cut weights
    of 32 bits.
    """
    dtype = shape.dtype or torch.float32
    if settings.dtype:
        dtype = getattr(torch, settings.dtype)
    elif dtype.itemsize == 2:
        dtype = compute_dtype("cpu", draws=True)
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    token = 2 * shape.num_hidden_layers * heads * size * dtype.itemsize
    tokens = settings.max_tokens + 2 * _CPU_BLOCK
    return {"dtype": str(dtype).removeprefix("torch."), "kv_cache_memory_bytes": tokens * token}


class VLLMReplica(LLMServer):
    """A replica of the engine."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, llm_config: LLMConfig, spec: ServeSpec, settings: Settings
    ) -> None:
        """Start vLLM and bring the first adapters to it.

        Raises:
            BaseModelError: the base or an adapter cannot be loaded, or vLLM does not start.
        """
        self._max_rows = settings.max_rows
        self._tokenizer = load_tokenizer(spec.base)
        config, generation = load_configs(spec.base)
        shape = config.get_text_config(decoder=True)
        self._ends = end_tokens(generation, self._tokenizer)
        self._context = min(shape.max_position_embeddings, settings.max_tokens)
        self._prepare = Prepare(self._tokenizer, self._context, shape.vocab_size, self._ends)
        self._folder = tempfile.TemporaryDirectory(prefix=f"cp_ray-adapters-{os.getpid()}-")
        self._bare = {model.id for model in spec.models if model.adapter is None}
        self._adapters: dict[str, Path] = {}
        self._under_way: set[Row] = set()
        self._secret = secrets.token_bytes(32)
        self._fetched = 0
        self._fetching, self._vectors = asyncio.Lock(), Vectors()
        first = {model.engine_name: self._fetch(model.id, model.adapter) for model in spec.models if model.adapter}
        self._uses = Uses(self._drop, first)
        rank = max((rank_of(name, folder) for name, folder in first.items()), default=0)
        room = next((most for most in _RANKS if most >= rank), rank)
        llm_config.update_engine_kwargs(max_model_len=self._context, max_lora_rank=room)
        if not settings.num_gpus:
            llm_config.update_engine_kwargs(**_on_cpus(shape, settings))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report its use to its makers
        try:
            await super().__init__(llm_config)
        except (RuntimeError, ValueError) as error:
            # What it says lies in its own processes' output.
            said = " ".join(str(error).split())[:200]
            raise BaseModelError(f"engine: vLLM does not start ({said}); its log says why") from error
        for name, folder in first.items():
            await self._know(name, folder)

    async def __del__(self) -> None:
        """Called by Ray Serve before it ends the process, which does no other tidying up."""
        self._folder.cleanup()
        await super().__del__()

    async def stream(self, request: ChatRequest, whole: bool = False) -> AsyncIterator[Piece | Wrong]:
        """Answer a chat piece by piece; `whole`: in few of them, for who waits for all of it."""
        try:
            answer = self._answer(request)
            async with aclosing(few(answer) if whole else answer) as told:  # type: ignore[type-var]
                async for piece in told:
                    yield piece
        except BadRequest as error:
            yield wrong(error)

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length; this project's own embedder makes them."""
        return await self._vectors.of(texts)

    async def check(self, name: str, adapter: str) -> Wrong | None:
        """Bring an adapter here and see whether it fits the base."""
        try:
            await self._bring(name, adapter)
        except BaseModelError as error:
            return Wrong(f"adapter: {error}")
        return None

    async def forget(self, name: str) -> None:
        """Delete the copy of an adapter that is not served any more, once nothing uses it; vLLM lets it go in time."""
        self._uses.forget(name)

    async def load(self) -> Load:
        """What it is busy with, as far as can be told from outside: vLLM is taken to fill its rows."""
        rows = min(len(self._under_way), self._max_rows)
        models = {row.model for row in self._under_way}
        held = sum(len(row.prompt) for row in self._under_way)
        return Load(rows, len(models), len(self._under_way) - rows, held)

    async def _answer(self, request: ChatRequest) -> AsyncIterator[Piece]:
        with self._uses.of(request.model):
            row = await asyncio.to_thread(self._prepare, request)
            model = await self._bring(request.model, request.adapter)
            async with aclosing(self._drawn(row, model)) as drawn:  # type: ignore[type-var]
                async for piece in drawn:
                    yield piece

    async def _drawn(self, row: Row, model: str) -> AsyncIterator[Piece]:
        # Who asks for little goes before who asks for much.
        priority = sum(other.tenant == row.tenant for other in self._under_way)
        self._under_way.add(row)
        try:
            if row.labels:
                yield await self._labelled(row, model, priority)
                return
            if row.request.choices and row.request.logprobs is not None:
                yield await self._chosen(row, model, priority)
                return
            async with aclosing(self._asked(row, model, priority)) as responses:  # type: ignore[type-var]
                async for piece in pieces(responses, row, self._text):
                    yield piece
        finally:
            self._under_way.discard(row)

    async def _labelled(self, row: Row, model: str, priority: int) -> Piece:
        told = await self._given(row, [((), label) for label in row.labels], model, priority)
        return Piece("", "stop", len(row.prompt), labels=tuple(one.logprob for one in told))

    async def _chosen(self, row: Row, model: str, priority: int) -> Piece:
        """One of the texts that an answer may be, whole, with its log-probabilities under the free model."""
        sole = row.guide.sole if isinstance(row.guide, Choices) else None
        text, reason, tokens = row.request.choices[0] if sole else "", "stop", list(sole or ())
        if not sole:
            async with aclosing(self._asked(row, model, priority)) as responses:  # type: ignore[type-var]
                async for piece in pieces(_noting(responses, tokens), row, self._text):
                    text, reason = text + piece.text, piece.finish_reason
        places = [(tokens[:k], token) for k, token in enumerate(tokens)]
        logprobs = await self._given(row, places, model, priority)
        return Piece(text, reason, len(row.prompt), len(tokens), logprobs=logprobs)

    async def _given(
        self, row: Row, places: Sequence[tuple[Sequence[int], int]], model: str, priority: int
    ) -> tuple[TokenLogprob, ...]:
        """The log-probabilities of tokens, each after those of the answer that are given with it."""
        salt = self._salt(row.tenant)

        async def one(before: Sequence[int], token: int) -> TokenLogprob:
            fields = asked_given(row, before, token, model=model, priority=priority, salt=salt)
            async with aclosing(self._responses(fields)) as responses:  # type: ignore[type-var]
                return given_logprob(await anext(responses), row, self._text)

        first = await one(*places[0])  # the others find the prompt computed
        return (first, *await asyncio.gather(*(one(*place) for place in places[1:])))

    def _asked(self, row: Row, model: str, priority: int) -> AsyncIterator[dict[str, Any]]:
        salt = self._salt(row.tenant)
        fields = asked(row, model=model, ends=self._ends, context=self._context, priority=priority, salt=salt)
        return self._responses(fields)

    def _salt(self, tenant: str) -> str:
        """Of a tenant, for vLLM to keep prompts apart by; nobody outside can work it out."""
        return hashlib.blake2b(tenant.encode(), key=self._secret, digest_size=32).hexdigest()

    async def _responses(self, fields: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        from ray.serve.llm.openai_api_models import CompletionRequest

        async with aclosing(await self.completions(CompletionRequest(**fields))) as items:
            async for item in items:
                for part in item if isinstance(item, list) else [item]:
                    for body in bodies(part):
                        yield body

    async def _bring(self, name: str, adapter: str | None) -> str:
        """Have vLLM know a model: what it knows it by."""
        if name not in self._adapters and adapter is not None:
            async with self._fetching:
                if name not in self._adapters:
                    await self._know(name, await asyncio.to_thread(self._fetch, name, adapter))
        if name in self._adapters:
            return _ADAPTER + name
        if name not in self._bare:
            raise BadRequest(f"model: {name!r} is not served; known: {', '.join([*self._bare, *self._adapters])}")
        return _BASE

    async def _know(self, name: str, folder: Path) -> None:
        """Bring an adapter to vLLM, which may leave it and read its folder again.

        Raises:
            BaseModelError: it cannot be read, or vLLM does not take it.
        """
        assert self.engine is not None
        try:
            rank_of(name, folder)
            await self.engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=_ADAPTER + name, max_total_tokens=None, local_path=str(folder), lora_assigned_int_id=0
                )
            )
        except (BaseModelError, ValueError) as error:
            shutil.rmtree(folder)
            if isinstance(error, BaseModelError):
                raise
            raise BaseModelError(f"adapter {name!r}: {' '.join(str(error).split())[:300]}") from error
        self._adapters[name] = folder

    def _drop(self, name: str) -> None:
        if (folder := self._adapters.pop(name, None)) is not None:
            shutil.rmtree(folder)

    def _fetch(self, name: str, uri: str) -> Path:
        self._fetched += 1
        return fetch(name, uri, Path(self._folder.name) / str(self._fetched))

    def _text(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text


async def _noting(responses: AsyncIterator[dict[str, Any]], tokens: list[int]) -> AsyncIterator[dict[str, Any]]:
    """The responses, their tokens noted down."""
    async for response in responses:
        tokens += drawn_tokens(response)
        yield response
