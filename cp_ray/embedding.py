"""Sentence embeddings in batches, on whatever device there is, alone or over a Ray Dataset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["Embedder", "embed", "vectors_of"]

_BATCH = 64
"""Texts in a forward pass; they are sorted by length first, so that few are padded."""


class Embedder:
    """A sentence embedder, loaded once."""

    def __init__(self, name: str = "minilm") -> None:
        """Load it.

        Args:
            name: `minilm`, the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers.
        """
        from sentence_transformers import SentenceTransformer

        from cp_ray.llm.embedded import minilm

        self.model = SentenceTransformer(str(minilm()) if name == "minilm" else name)

    def encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """[n, d], each of unit length."""
        if not texts:
            return np.zeros((0, self.model.get_embedding_dimension() or 0), dtype=np.float32)
        found: NDArray[np.float32] = self.model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return found


class _Column:
    """In a Ray Data actor: adds a column of vectors to a block."""

    def __init__(self, embedder: str, column: str, into: str) -> None:
        self._embedder, self._column, self._into = Embedder(embedder), column, into

    def __call__(self, table: pa.Table) -> pa.Table:
        vectors = self._embedder.encode(table[self._column].to_pylist())
        flat = pa.array(vectors.reshape(-1), pa.float32())
        return table.append_column(self._into, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))


def embed(
    dataset: "Dataset", column: str, *, into: str = "vector", embedder: str = "minilm", workers: int = 1
) -> "Dataset":
    """The dataset with a column of vectors (a fixed-size list of float32, of unit length) of its texts."""
    import ray.data

    return dataset.map_batches(
        _Column,
        fn_constructor_args=(embedder, column, into),
        batch_format="pyarrow",
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,  # type: ignore[no-untyped-call]
    )


def vectors_of(table: pa.Table, column: str = "vector") -> "NDArray[np.float32]":
    """[n, d]: a column of vectors as an array."""
    chunks = [chunk for chunk in table[column].chunks if len(chunk)]
    if not chunks:
        return np.zeros((0, table.schema.field(column).type.list_size), dtype=np.float32)
    return np.concatenate([c.flatten().to_numpy(zero_copy_only=False).reshape(len(c), -1) for c in chunks])
