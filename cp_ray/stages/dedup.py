"""dedup: redundant opinions of a seed are set aside.

Their embeddings are clustered and each medoid stays, or as many are chosen one by one by maximal marginal relevance.
"""

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

__all__ = ["DedupConfig", "dedup", "marginal", "medoids"]

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
    keep: str = "medoids"
    """`medoids`: the most central opinion of each cluster; `mmr`: chosen by maximal marginal relevance, one by one."""
    relevance: float = 0.5
    """Of `mmr`: the weight of being central among the seed's opinions, against being unlike those chosen before."""

    def __post_init__(self) -> None:
        if self.per_seed < 1:
            raise ConfigError(f"per_seed: must be at least 1, got {self.per_seed}")
        if self.keep not in ("medoids", "mmr"):
            raise ConfigError(f"keep: must be medoids or mmr, got {self.keep!r}")
        if not 0 <= self.relevance <= 1:
            raise ConfigError(f"relevance: must be from 0 to 1, got {self.relevance}")


def dedup(opinions: "Dataset", config: DedupConfig, workers: int | None = None) -> "Dataset":
    """All opinions; those in excess of `per_seed` of a seed are rejected as redundant.

    `workers`: as in `embed`.
    """
    said = opinions.map_batches(_said, batch_format="pyarrow", batch_size=None)
    embedded = embed(said, "said", "vector", config.embedder, workers)

    def keep(group: Any) -> Any:
        return _keep(group, config)

    # Ray's default of 200 partitions costs half a minute however few the rows.
    grouped = embedded.groupby("seed_id", num_partitions=_PARTITIONS)
    return grouped.map_groups(keep, batch_format="pyarrow")


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


def marginal(vectors: "NDArray[np.float32]", k: int, relevance: float) -> list[int]:
    """Indices of at most `k` rows by maximal marginal relevance, the earlier of two that are worth the same first.

    Each is the row with the largest `relevance` times its cosine to the mean of all, less `1 - relevance` times its
    largest cosine to one chosen before. The mean and not the claim: what verify let through agrees with the claim,
    and to be nearest to it would be to repeat it.

    `vectors`: [n, d], of unit length. Equal vectors count once.
    """
    distinct = np.sort(np.unique(vectors.round(6), axis=0, return_index=True)[1])
    if len(distinct) <= k:
        return [int(i) for i in distinct]
    some = vectors[distinct]
    mean = vectors.mean(axis=0)
    central = some @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    likest = np.zeros(len(some), np.float32)
    chosen: list[int] = []
    left = np.ones(len(some), bool)
    while len(chosen) < k:
        worth = relevance * central - (1 - relevance) * likest
        # Rounded, so that what is equal but for the order of a sum is equal.
        best = int(np.where(left, worth.round(5), -np.inf).argmax())
        likest = some @ some[best] if not chosen else np.maximum(likest, some @ some[best])
        left[best] = False
        chosen.append(best)
    return sorted(int(distinct[i]) for i in chosen)


def _said(table: pa.Table) -> pa.Table:
    """Adds the texts that count, which are the ones to embed."""
    import pyarrow.compute as pc

    nothing = pa.scalar(None, pa.string())
    return table.append_column("said", pc.if_else(pc.is_null(table["reject"]), table["text"], nothing))


def _keep(group: pa.Table, config: DedupConfig) -> pa.Table:
    """One seed's opinions, in the order of their ids so that the outcome does not hang on how they arrived."""
    group = group.sort_by("id")
    rejects: list[Any] = group["reject"].to_pylist()
    counting = [i for i, reject in enumerate(rejects) if reject is None]
    if counting:
        vectors = vectors_of(group["vector"])
        found = (
            marginal(vectors, config.per_seed, config.relevance)
            if config.keep == "mmr"
            else medoids(vectors, config.per_seed, config.seed)
        )
        kept = {counting[i] for i in found}
        rejects = [REDUNDANT if reject is None and i not in kept else reject for i, reject in enumerate(rejects)]
    group = group.set_column(group.schema.get_field_index("reject"), "reject", pa.array(rejects, pa.string()))
    return group.drop_columns(["said", "vector"]).cast(schema(Opinion))
