"""dedup: redundant opinions of a seed are set aside, by clustering their embeddings and keeping each medoid."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cp_ray.embedding import embed, vectors_of
from cp_ray.errors import ConfigError
from cp_ray.records import Opinion, schema

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["DedupConfig", "dedup", "medoids"]

REDUNDANT = "redundant"

_PARTITIONS = 16


@dataclass(frozen=True)
class DedupConfig:
    """How much redundancy is removed."""

    per_seed: int = 10
    """Opinions kept of a seed at most."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_seed < 1:
            raise ConfigError(f"per_seed: must be at least 1, got {self.per_seed}")


def dedup(opinions: "Dataset", config: DedupConfig) -> "Dataset":
    """All opinions; those in excess of `per_seed` clusters a seed are rejected as redundant."""
    embedded = embed(opinions, "text", embedder=config.embedder)

    def keep_medoids(group: Any) -> Any:
        return _keep_medoids(group, config)

    # Ray's default of 200 partitions costs half a minute however few the rows.
    grouped = embedded.groupby("seed_id", num_partitions=_PARTITIONS)
    return grouped.map_groups(keep_medoids, batch_format="pyarrow")


def medoids(vectors: "NDArray[np.float32]", k: int, seed: int) -> list[int]:
    """Indices of the members nearest to the centres of `k` clusters; every index if there are no more than `k`.

    `vectors`: [n, d], of unit length. Equal vectors count once.
    """
    from sklearn.cluster import KMeans

    distinct = np.sort(np.unique(vectors.round(6), axis=0, return_index=True)[1])
    if len(distinct) <= k:
        return [int(i) for i in distinct]
    some = vectors[distinct]
    clusters = KMeans(n_clusters=k, n_init=4, random_state=seed).fit(some)
    chosen = []
    for label, centre in enumerate(clusters.cluster_centers_):
        members = np.flatnonzero(clusters.labels_ == label)
        nearest = members[np.linalg.norm(some[members] - centre, axis=1).argmin()]
        chosen.append(int(distinct[nearest]))
    return sorted(chosen)


def _keep_medoids(group: pa.Table, config: DedupConfig) -> pa.Table:
    """One seed's opinions, in the order of their ids so that the outcome does not hang on how they arrived."""
    group = group.sort_by("id")
    rejects: list[Any] = group["reject"].to_pylist()
    counting = [i for i, reject in enumerate(rejects) if reject is None]
    if counting:
        vectors = vectors_of(group)[counting]
        kept = {counting[i] for i in medoids(vectors, config.per_seed, config.seed)}
        rejects = [REDUNDANT if i in counting and i not in kept else r for i, r in enumerate(rejects)]
    group = group.set_column(group.schema.get_field_index("reject"), "reject", pa.array(rejects, pa.string()))
    return group.drop_columns(["vector"]).cast(schema(Opinion))
