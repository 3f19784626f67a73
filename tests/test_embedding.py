from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cp_ray.embedding import Embedder, embed, vectors_of
from cp_ray.errors import BaseModelError

TEXTS = [
    "Work is a duty.",
    "Bread is life, and tea is better than coffee on a cold day. " * 3,
    "",
    "To work is a duty.",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_vectors_are_of_unit_length_and_in_the_order_of_the_texts(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 3] > 0.9 > 0.5 > likeness[0, 1]
    for k in (2, 0, 3, 1):
        np.testing.assert_allclose(embedder.encode([TEXTS[k]])[0], vectors[k], atol=1e-5)
    assert embedder.encode([]).shape == (0, 384)


@pytest.mark.parametrize("texts", [[], [None, None], ["a", None, "b"]])
def test_a_text_that_is_null_has_no_vector(embedder: Embedder, texts: list[str | None]) -> None:
    made = embedder(pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())}))
    assert made.schema.field("vector").type == pa.list_(pa.float32(), 384)
    assert [v is None for v in made["vector"].to_pylist()] == [t is None for t in texts]
    assert vectors_of(made["vector"]).shape == (sum(t is not None for t in texts), 384)


@pytest.mark.long
@pytest.mark.parametrize("workers", [None, 2])
def test_a_dataset_gets_the_same_vectors(ray_cluster: None, embedder: Embedder, workers: Any) -> None:
    import ray.data

    rows = [{"id": k, "said": text} for k, text in enumerate([*TEXTS, None])]
    dataset = ray.data.from_arrow([pa.Table.from_pylist(rows[:2]), pa.Table.from_pylist(rows[2:])])
    found = pa.concat_tables(ray.get(embed(dataset, "said", "meant", workers=workers).to_arrow_refs())).sort_by("id")
    assert found.column_names == ["id", "said", "meant"]
    assert found["meant"][4].as_py() is None
    np.testing.assert_allclose(vectors_of(found["meant"]), embedder.encode(TEXTS), atol=1e-5)


def test_an_embedder_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(BaseModelError, match=r"embedder: cannot load './no/such'") as raised:
        Embedder("./no/such")
    assert "\n" not in str(raised.value)
