import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.records import Opinion, from_table, to_table
from cp_ray.stages.dedup import DedupConfig, dedup, medoids


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


def opinion(k: int, text: str, seed: str = "german/Q1", reject: str | None = None) -> Opinion:
    return Opinion(f"{seed}/{k}", "d", seed, "german", "Lukas", "claim", "question", text, reject=reject)


def test_what_says_the_same_is_set_aside_whatever_the_order(ray_cluster: None) -> None:
    import pyarrow as pa
    import ray.data

    rows = [
        opinion(0, "Germans think that work is a duty to society."),
        opinion(1, "Germans think that working is a duty towards society."),
        opinion(2, "Germans think that dogs make good friends."),
        opinion(3, "Germans think that a dog is a good friend."),
        opinion(4, "", reject="not a list"),
        opinion(0, "Greeks think that bread is life.", seed="greek/Q1"),
    ]
    outcomes = []
    for order in (rows, rows[::-1]):
        made = dedup(ray.data.from_arrow([to_table([o], Opinion) for o in order]), DedupConfig(per_seed=2))
        found = from_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Opinion)
        outcomes.append({o.id: o.reject for o in found})
        assert sorted(o.text for o in found) == sorted(o.text for o in rows)
    first, second = outcomes
    assert first == second
    assert first["german/Q1/4"] == "not a list"
    assert first["greek/Q1/0"] is None
    assert sorted(str(first[f"german/Q1/{k}"]) for k in (0, 1)) == ["None", "redundant"]
    assert sorted(str(first[f"german/Q1/{k}"]) for k in (2, 3)) == ["None", "redundant"]
