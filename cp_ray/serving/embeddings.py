"""/v1/embeddings: sentences as vectors."""

import base64
import struct
from typing import Any

from fastapi import FastAPI, Request

from cp_ray.serving.bodies import EmbeddingBody
from cp_ray.serving.call import Call
from cp_ray.serving.openai_shapes import Refusal
from cp_ray.serving.routing import UnknownModel
from cp_ray.serving.service import Service

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
        # Its tokenizer runs beside the engine; a token is about four characters.
        tokens = sum(1 + len(text) // 4 for text in texts)
        call: Call = request.state.call
        call.model = EMBEDDER
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


def _written(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
