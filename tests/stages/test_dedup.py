import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.arrow import from_table, to_table
from cp_ray.errors import ConfigError
from cp_ray.records import Opinion
from cp_ray.stages.dedup import DedupConfig, dedup, marginal, medoids


@given(seed=st.integers(0, 1000), clusters=st.integers(2, 5), size=st.integers(1, 6))
def test_one_of_each_planted_cluster_is_kept(seed: int, clusters: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    centres = np.eye(16, dtype=np.float32)[:clusters]
    vectors = np.repeat(centres, size, axis=0) + rng.normal(0, 0.01, (clusters * size, 16)).astype(np.float32)
    kept = medoids(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), clusters, seed=0)
    assert sorted(k // size for k in kept) == list(range(clusters))


def test_the_nearest_to_the_centre_stays_and_not_the_longest() -> None:
    angles = np.array([0.0, 0.1, 0.2, 2.0, 2.1, 2.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert medoids(vectors, 2, seed=0) == [1, 4]
    assert medoids(vectors, 6, seed=0) == [0, 1, 2, 3, 4, 5]
    assert medoids(np.repeat(vectors[:1], 4, axis=0), 3, seed=0) == [0], "what is equal counts once"


@given(seed=st.integers(0, 1000), clusters=st.integers(2, 5), size=st.integers(1, 6))
def test_marginal_relevance_takes_one_of_each_planted_cluster(seed: int, clusters: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.repeat(np.eye(16)[:clusters], size, axis=0) + rng.normal(0, 0.01, (clusters * size, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    kept = marginal(vectors, clusters, 0.5)
    assert sorted(k // size for k in kept) == list(range(clusters))
    assert marginal(vectors, len(vectors), 0.5) == list(range(len(vectors)))


def test_marginal_relevance_is_between_what_is_central_and_what_is_apart() -> None:
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert marginal(vectors, 2, relevance=1.0) == [3, 4], "the two nearest to the mean"
    assert 5 in marginal(vectors, 2, relevance=0.3), "what is unlike the first"
    assert marginal(np.repeat(vectors[:1], 4, axis=0), 3, 0.5) == [0], "what is equal counts once"
    assert marginal(vectors[:0], 3, 0.5) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"per_seed": 0}, "per_seed: must be at least 1, got 0"),
        ({"keep": "longest"}, "keep: must be medoids or mmr, got 'longest'"),
        ({"relevance": 1.5}, "relevance: must be from 0 to 1, got 1.5"),
        ({"relevance": float("nan")}, "relevance: must be from 0 to 1, got nan"),
    ],
)
def test_wrong_options_are_told(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        DedupConfig(**wrong)  # type: ignore[arg-type]
    assert str(raised.value) == said


def opinion(k: int, text: str, seed: str = "german/Q1", reject: str | None = None) -> Opinion:
    return Opinion(f"{seed}/{k}", "d", seed, "german", "Lukas", "claim", "question", text, reject=reject)


@pytest.mark.parametrize("keep", ["medoids", "mmr"])
def test_what_says_the_same_is_set_aside_whatever_the_order(
    ray_cluster: None, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import ray

    texts = (
        "Germans think that work is a duty to society.",
        "Germans think that working is a duty towards society.",
        "Germans think that dogs make good friends.",
        "Germans think that a dog is a good friend.",
    )
    there = [opinion(k, text, "german/Q1") for k, text in enumerate(texts)]
    back = [opinion(k, text, "german/Q2") for k, text in enumerate(texts)][::-1]
    others = [opinion(9, "", reject="not a list"), opinion(0, "Greeks think that bread is life.", seed="greek/Q1")]
    monkeypatch.setattr("cp_ray.stages.dedup._BLOCK", 5)
    rows = [*there, *others, *back]
    made = dedup(to_table(rows, Opinion), DedupConfig(per_seed=2, keep=keep), workers=1)
    table = pa.concat_tables(ray.get(made.to_arrow_refs()))
    assert [v is None for v in table["vector"].to_pylist()] == [r is not None for r in table["reject"].to_pylist()]
    found = {o.id: o for o in from_table(table, Opinion)}
    assert len(found) == len(rows), "what is set aside is kept"
    reject = {id: o.reject for id, o in found.items()}
    assert [reject[f"german/Q1/{k}"] for k in range(4)] == [reject[f"german/Q2/{k}"] for k in range(4)]
    assert sorted(str(reject[f"german/Q1/{k}"]) for k in (0, 1)) == ["None", "redundant"]
    assert sorted(str(reject[f"german/Q1/{k}"]) for k in (2, 3)) == ["None", "redundant"]
    for a, b in (("0", "1"), ("1", "0"), ("2", "3"), ("3", "2")):
        one = found[f"german/Q1/{a}"]
        assert one.duplicate_of == (f"german/Q1/{b}" if one.reject else None), "the nearest that is kept"
    assert reject["german/Q1/9"] == "not a list"
    assert reject["greek/Q1/0"] is None
