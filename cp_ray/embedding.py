"""Sentence embeddings in large batches, on a GPU where Ray gives one, else a CPU core for each worker."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cp_ray.devices import model_actors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["Embedder", "embed", "vector_column", "vectors_of"]

_BATCH = 1024
"""Texts at once: enough that, sorted by length, those padded together are about as long."""


class Embedder:
    """A sentence embedder; as a Ray Data actor it adds a column of vectors to a table."""

    def __init__(
        self, name: str = "minilm", column: str = "text", into: str = "vector", *, device: str | None = None
    ) -> None:
        """Load it.

        Args:
            name: `minilm`, the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers.
            column: the texts; one that is null gets a null vector.
            into: the column that is added.
            device: None for a GPU where there is one.

        Raises:
            BaseModelError: it cannot be loaded.
        """
        from sentence_transformers import SentenceTransformer

        from cp_ray.errors import BaseModelError
        from cp_ray.llm.embedded import minilm

        self.column, self.into = column, into
        source = str(minilm()) if name == "minilm" else name
        try:
            # Weights from safetensors only: other formats are pickles, which run what they hold.
            self.model = SentenceTransformer(source, device=device, model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BaseModelError(
                f"embedder: cannot load {name!r} ({why}); give 'minilm', a folder, or a sentence-transformers name"
            ) from error

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        size = self.model.get_embedding_dimension()
        assert size is not None
        return size

    def encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Vectors [n, d] of unit length, in the order of the texts."""
        import numpy as np

        if not texts:
            return np.zeros((0, self.size), np.float32)
        # It sorts the texts by length itself, and gives them back in order.
        found = self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(found, dtype=np.float32)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the column of vectors: a fixed-size list of float32."""
        import numpy as np

        texts = table[self.column].to_pylist()
        there = np.array([text is not None for text in texts], bool)
        vectors = self.encode([text for text in texts if text is not None])
        return table.append_column(self.into, vector_column(vectors, there))


def embed(
    dataset: "Dataset", column: str, into: str = "vector", embedder: str = "minilm", workers: int | None = None
) -> "Dataset":
    """The dataset with a column of vectors of unit length; null where the text is null.

    Args:
        dataset: rows with a text each.
        column: the texts.
        into: the column that is added, a fixed-size list of float32.
        embedder: as in `Embedder`.
        workers: as in `model_actors`.
    """
    blocks = dataset.repartition(target_num_rows_per_block=_BATCH)
    return blocks.map_batches(
        Embedder, fn_constructor_args=(embedder, column, into), batch_format="pyarrow", batch_size=_BATCH,
        **model_actors(workers),
    )  # fmt: skip


def vector_column(vectors: "NDArray[np.float32]", there: "NDArray[np.bool_]") -> pa.Array:
    """A column of fixed-size lists: the vectors [k, d], one after another where `there` [n] says so, null elsewhere."""
    import numpy as np

    whole = np.zeros((len(there), vectors.shape[1]), np.float32)
    whole[there] = vectors
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1)), vectors.shape[1], mask=pa.array(~there))


def vectors_of(column: Any) -> "NDArray[np.float32]":
    """A column of vectors, without its nulls, as an array [n, d]."""
    import numpy as np

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = np.asarray(whole.drop_null().flatten(), dtype=np.float32)
    return flat.reshape(-1, whole.type.list_size)
