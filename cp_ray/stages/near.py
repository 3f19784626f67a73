"""near: opinions that are nearly the same as another, of whatever seed, are set aside."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cp_ray.arrow import replaced
from cp_ray.embedding import embed, vectors_of
from cp_ray.errors import ConfigError
from cp_ray.near import near_duplicates
from cp_ray.records import Opinion

__all__ = ["NEAR", "NearConfig", "near"]

NEAR = "near duplicate"

_BLOCK = 4096
"""Opinions of a block that is embedded."""
_ON_RAY = 50_000
"""Rows from which the search is worth the start of workers for it."""


@dataclass(frozen=True)
class NearConfig:
    """What counts as nearly the same, and among which opinions."""

    near: float = 0.95
    """The cosine of two embeddings from which one of them is set aside."""
    across: str = "culture"
    """`culture`: among the opinions of a culture, across its seeds; `run`: among those of all cultures."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""

    def __post_init__(self) -> None:
        if not 0.8 <= self.near <= 1:
            raise ConfigError(
                f"near: must be from 0.8 to 1, got {self.near}; below that opinions are alike, not the same"
            )
        if self.across not in ("culture", "run"):
            raise ConfigError(f"across: must be culture or run, got {self.across!r}")


def near(opinions: pa.Table, config: NearConfig, workers: int | None = None) -> pa.Table:
    """All opinions, by id; near-duplicates are rejected and name the one of those that are alike which is kept.

    Args:
        opinions: rows of `Opinion`; those that are rejected already are left as they are, and set nothing aside.
        config: what is wanted.
        workers: as in `embed`.
    """
    import ray
    import ray.data

    opinions = opinions.sort_by("id")
    rejected = opinions["reject"]
    counting = opinions.filter(pc.is_null(rejected)).select(["id", "culture", "text"]).combine_chunks()
    if not counting.num_rows:
        return opinions
    blocks = [counting.slice(k, _BLOCK) for k in range(0, counting.num_rows, _BLOCK)]
    embedded = embed(ray.data.from_arrow(blocks), "text", "vector", config.embedder, workers)
    made = pa.concat_tables(ray.get(embedded.to_arrow_refs()))
    ids, vectors = np.array(made["id"].to_pylist()), vectors_of(made["vector"])
    groups = np.array(made["culture"].to_pylist() if config.across == "culture" else [""] * len(ids))
    found: dict[str, str] = {}
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        behind = near_duplicates(vectors[own], ids[own].tolist(), config.near, on_ray=len(own) > _ON_RAY)
        found |= zip(ids[own[behind >= 0]].tolist(), ids[own[behind[behind >= 0]]].tolist(), strict=True)
    stands_behind = pa.array([found.get(id) for id in opinions["id"].to_pylist()], pa.string())
    columns = {
        "reject": pc.if_else(pc.is_valid(stands_behind), pa.scalar(NEAR), rejected),
        "duplicate_of": pc.coalesce(stands_behind, opinions["duplicate_of"]),
    }
    return replaced(opinions, Opinion, columns)
