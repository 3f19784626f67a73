"""/v1/embeddings: sentences as vectors."""

import asyncio
import base64
import functools
import json
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from cp_ray.llm.embedded import minilm
from cp_ray.serving.bodies import EmbeddingBody
from cp_ray.serving.call import Call
from cp_ray.serving.openai_shapes import Refusal
from cp_ray.serving.routing import UnknownModel
from cp_ray.serving.service import Service

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["EMBEDDER", "add_embeddings"]

EMBEDDER = "minilm"
_DIMENSIONS = 384


def add_embeddings(api: FastAPI, service: Service) -> None:
    """Add the route."""

    @api.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> dict[str, Any]:
        """Vectors of all-MiniLM-L6-v2, of unit length."""
        if body.model != EMBEDDER:
            raise UnknownModel(f"model: {body.model[:100]!r} makes no embeddings; known: {EMBEDDER}")
        if body.dimensions not in (None, _DIMENSIONS):
            raise Refusal(400, f"dimensions: must be {_DIMENSIONS}, got {body.dimensions}", param="dimensions")
        texts = [body.input] if isinstance(body.input, str) else body.input
        call: Call = request.state.call
        call.model = EMBEDDER
        tokens = await asyncio.to_thread(_tokens, texts, listed=not isinstance(body.input, str))
        call.took(tokens, 0)
        try:
            vectors = await service.backend.embed(texts)
        except Exception:
            call.took(-tokens, 0)  # what fails costs nothing, what is given up does
            raise
        data = [
            {"object": "embedding", "index": k, "embedding": _written(vector, body.encoding_format)}
            for k, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": EMBEDDER, "usage": usage}


def _tokens(texts: Sequence[str], *, listed: bool) -> int:
    """Of all texts, as the embedder reads them.

    Raises:
        Refusal: one is longer than it reads; the rest of it would change nothing.
    """
    tokenizer, most = _reader()
    counts = [len(encoded.ids) for encoded in tokenizer.encode_batch_fast(list(texts))]
    for k, count in enumerate(counts):
        if count > most:
            where = f"input[{k}]" if listed else "input"
            message = f"{where}: must have at most {most} tokens, got {count}; split it"
            raise Refusal(400, message, param=where, code="context_length_exceeded")
    return sum(counts)


@functools.cache
def _reader() -> "tuple[Tokenizer, int]":
    """The embedder's tokenizer, and how many tokens of a text it reads."""
    from tokenizers import Tokenizer

    folder = minilm()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    most: int = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    return tokenizer, most


def _written(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
