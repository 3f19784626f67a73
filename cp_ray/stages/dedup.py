"""dedup: redundant opinions of a seed are set aside.

Their embeddings are clustered and each medoid stays, or as many are chosen one by one by maximal marginal relevance.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cp_ray.arrow import replaced
from cp_ray.devices import model_actors
from cp_ray.embedding import Embedder, vector_column
from cp_ray.errors import ConfigError
from cp_ray.records import Opinion

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["DedupConfig", "dedup", "marginal", "medoids"]

REDUNDANT = "redundant"

_BLOCK = 1024
"""Opinions that an actor is given at once, at least: enough that those embedded together are of like length."""


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


def dedup(opinions: pa.Table, config: DedupConfig, workers: int | None = None) -> "Dataset":
    """All opinions; those in excess of `per_seed` of a seed are rejected as redundant, and name the nearest one kept.

    Those that stay have their embedding in a column `vector`, for who compares them next; it is null in the others.

    Args:
        opinions: rows of `Opinion`, in any order; those that are rejected already are left as they are.
        config: how many stay, and which.
        workers: as in `model_actors`.
    """
    import ray.data

    # A block is one row: Ray Data may cut and join what has several, and does on GPUs.
    return ray.data.from_arrow([_as_row(block) for block in _blocks(opinions)]).map_batches(
        _Keeper, fn_constructor_args=(config,), batch_format="pyarrow", batch_size=1, **model_actors(workers)
    )


def _as_row(block: pa.Table) -> pa.Table:
    """A table of one row, which has all of them."""
    rows = block.to_struct_array().combine_chunks()
    return pa.table({"rows": pa.ListArray.from_arrays([0, len(rows)], rows)})


def _blocks(opinions: pa.Table) -> list[pa.Table]:
    """Blocks of whole seeds, so that no row has to meet another by way of a shuffle.

    In the order of the ids, so that the outcome does not hang on how the rows arrived.
    """
    rows = opinions.sort_by([("seed_id", "ascending"), ("id", "ascending")])
    cuts = [0]
    for start in _starts(rows):
        if start - cuts[-1] >= _BLOCK:
            cuts.append(start)
    return [rows.slice(start, end - start) for start, end in itertools.pairwise([*cuts, rows.num_rows])]


def _starts(rows: pa.Table) -> list[int]:
    """Where a seed's rows begin, in rows that stand by seed."""
    seeds = rows["seed_id"].to_pylist()
    return [k for k, seed in enumerate(seeds) if k == 0 or seed != seeds[k - 1]]


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


class _Keeper:
    """In a Ray Data actor: embeds a block's opinions and chooses those of each seed that stay."""

    def __init__(self, config: DedupConfig) -> None:
        self.config, self.embedder = config, Embedder(config.embedder)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = pa.Table.from_struct_array(block["rows"].combine_chunks().flatten())
        names = ("id", "text", "reject", "duplicate_of")
        ids, texts, rejects, duplicates = (rows[name].to_pylist() for name in names)
        counting = np.array([k for k, reject in enumerate(rejects) if reject is None], np.int64)
        vectors = self.embedder.encode([texts[k] for k in counting])
        stay = np.zeros(rows.num_rows, bool)
        stay[counting] = True
        for start, end in itertools.pairwise([*_starts(rows), rows.num_rows]):
            one = slice(*np.searchsorted(counting, [start, end]))
            for row, stays in self._behind(counting[one], vectors[one]).items():
                rejects[row], duplicates[row], stay[row] = REDUNDANT, ids[stays], False
        columns = {"reject": pa.array(rejects, pa.string()), "duplicate_of": pa.array(duplicates, pa.string())}
        made = replaced(rows, Opinion, columns)
        return made.append_column("vector", vector_column(vectors[stay[counting]], stay))

    def _behind(self, rows: "NDArray[np.int64]", vectors: "NDArray[np.float32]") -> dict[int, int]:
        """A seed's rows that are redundant, each with the nearest that stays."""
        config = self.config
        if not len(rows):
            return {}
        kept = (
            marginal(vectors, config.per_seed, config.relevance)
            if config.keep == "mmr"
            else medoids(vectors, config.per_seed, config.seed)
        )
        nearest = rows[kept][(vectors @ vectors[kept].T).argmax(axis=1)]
        return {int(rows[k]): int(nearest[k]) for k in set(range(len(rows))) - set(kept)}
