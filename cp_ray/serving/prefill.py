"""Prompts on their way into the batch, computed together and a piece at a time so that answers go on meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cp_ray.serving.prefix import RowState
from cp_ray.serving.rows import Row
from cp_ray.serving.slots import Slots

__all__ = ["Group", "groups"]

_GROUP_TOKENS = 2_048
"""Prompt tokens computed in one group, padding included, unless a single prompt has more."""


@dataclass(slots=True)
class Group:
    """Rows of a tenant whose uncomputed parts are of like length."""

    rows: list[Row]
    slots: Slots
    fresh: list[list[int]] = field(default_factory=list)
    """What is still to be computed of each prompt."""

    def piece(self, tokens: int) -> list[list[int]]:
        """The next tokens of each row, at most so many in all; the rows end together."""
        longest = max(len(ids) for ids in self.fresh)
        left = longest - max(1, min(longest, tokens // len(self.rows)))
        return [ids[: len(ids) - left] if left else ids for ids in self.fresh]

    def computed(self, piece: list[list[int]]) -> bool:
        """These tokens have been computed: whether all have."""
        self.fresh = [ids[len(done) :] for ids, done in zip(self.fresh, piece, strict=True)]
        return not any(self.fresh)


def groups(rows: Sequence[tuple[Row, RowState | None]]) -> Iterator[list[tuple[Row, RowState | None]]]:
    """Rows with what is known of their prompts, tenant by tenant, so that a quarter of a group at most is padding."""
    group: list[tuple[Row, RowState | None]] = []
    for pair in sorted(rows, key=lambda pair: (pair[0].tenant, _fresh(pair))):
        size = _fresh(pair)
        other = bool(group) and group[0][0].tenant != pair[0].tenant
        if group and (other or 4 * _fresh(group[0]) < 3 * size or (len(group) + 1) * size > _GROUP_TOKENS):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _fresh(pair: tuple[Row, RowState | None]) -> int:
    row, past = pair
    return len(row.prompt) - (past.tokens if past else 0)
