import json
import subprocess
import sys
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


ON_A_GPU = """
import json, ray, pyarrow as pa, ray.data
from cp_ray import embedding, quality
from cp_ray.stages import check, leakage

class Probe:
    def __init__(self, *_): pass
    def __call__(self, table): return pa.table({"gpus": [len(ray.get_gpu_ids())] * len(table)})

embedding.Embedder = quality._Measure = check._Check = leakage._Nearest = Probe
ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=2, num_gpus=1, include_dashboard=False,
         logging_level=40)
rows = ray.data.from_arrow(pa.table({"text": ["a", "b"]}))
made = {
    "embed": embedding.embed(rows, "text"),
    "more workers than GPUs": embedding.embed(rows, "text", workers=2),
    "check": check.check(rows, None),
    "leakage": leakage.leakage(rows, [], None),
    "quality": quality.measure(rows, None, workers=2),
}
print(json.dumps({name: [row["gpus"] for row in dataset.take_all()] for name, dataset in made.items()}))
"""


@pytest.mark.long
def test_whatever_holds_a_model_asks_for_a_gpu_where_there_is_one() -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 5
    assert set(map(tuple, found.values())) == {(1, 1)}
