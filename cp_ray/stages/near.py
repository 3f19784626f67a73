"""near: opinions that are nearly the same as another, of whatever seed, are set aside."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cp_ray.arrow import replaced
from cp_ray.embedding import vectors_of
from cp_ray.errors import ConfigError
from cp_ray.near import near_duplicates
from cp_ray.records import Opinion

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NEAR", "NearConfig", "near"]

NEAR = "near duplicate"

_ON_RAY = 50_000
"""Rows from which the search is worth the start of workers for it."""


@dataclass(frozen=True)
class NearConfig:
    """What counts as nearly the same, and among which opinions."""

    near: float = 0.95
    """The cosine of two embeddings from which one of them is set aside."""
    across: str = "culture"
    """`culture`: among the opinions of a culture, across its seeds; `run`: among those of all cultures."""

    def __post_init__(self) -> None:
        if not 0.8 <= self.near <= 1:
            raise ConfigError(
                f"near: must be from 0.8 to 1, got {self.near}; below that opinions are alike, not the same"
            )
        if self.across not in ("culture", "run"):
            raise ConfigError(f"across: must be culture or run, got {self.across!r}")


def near(opinions: pa.Table, embedded: pa.Table, config: NearConfig) -> pa.Table:
    """All opinions, by id; near-duplicates are rejected and name the one of those that are alike which is kept.

    Args:
        opinions: rows of `Opinion`; those that are rejected already are left as they are, and set nothing aside.
        embedded: `id` and `vector`, of unit length, of each opinion that is not; others may be there.
        config: what is wanted.

    Raises:
        ValueError: an opinion that counts has no vector.
    """
    opinions = opinions.sort_by("id")
    counting = opinions.filter(pc.is_null(opinions["reject"])).select(["id", "culture"])
    if not counting.num_rows:
        return opinions
    ids, vectors = np.array(counting["id"].to_pylist()), _vectors(counting["id"], embedded)
    groups = np.array(counting["culture"].to_pylist() if config.across == "culture" else [""] * len(ids))
    found: dict[str, str] = {}
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        some = vectors if len(own) == len(vectors) else vectors[own]
        behind = near_duplicates(some, ids[own].tolist(), config.near, on_ray=len(own) > _ON_RAY)
        found |= zip(ids[own[behind >= 0]].tolist(), ids[own[behind[behind >= 0]]].tolist(), strict=True)
    stands_behind = pa.array([found.get(id) for id in opinions["id"].to_pylist()], pa.string())
    columns = {
        "reject": pc.if_else(pc.is_valid(stands_behind), pa.scalar(NEAR), opinions["reject"]),
        "duplicate_of": pc.coalesce(stands_behind, opinions["duplicate_of"]),
    }
    return replaced(opinions, Opinion, columns)


def _vectors(ids: pa.ChunkedArray, embedded: pa.Table) -> "NDArray[np.float32]":
    """The vectors of these ids, [n, d], in their order."""
    places = pc.index_in(ids, value_set=embedded["id"])
    if places.null_count:
        lacking = ids.filter(pc.is_null(places))[0]
        raise ValueError(f"embedded: {places.null_count} opinions have no vector, one of them {lacking}")
    found: NDArray[np.float32] = vectors_of(embedded["vector"])[np.asarray(places)]
    return found
