"""What is exported, and what its card tells of how it was made."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cp_ray.cultures import Culture
from cp_ray.survey.items import Source

if TYPE_CHECKING:
    from cp_ray.folder import Manifest

__all__ = ["ALL", "ExportConfig", "Made"]

ALL = "all"
"""Every culture together; no culture may have this id."""


@dataclass(frozen=True)
class ExportConfig:
    """What is exported."""

    cultures: tuple[Culture, ...]
    """Of the seeds."""
    survey: Source
    """That the seeds come from."""
    seed: int = 0
    """Of the order of the rows."""
    edition: int = 2
    """Of the files and the card."""


@dataclass(frozen=True)
class Made:
    """What the rows were made by."""

    steps: "tuple[Manifest, ...]"
    """In the order in which they were done."""
    teachers: tuple[str, ...]
    """The models that were asked; none where no call was made."""

    def has(self, step: str) -> bool:
        """Was there such a step?"""
        return any(manifest.name == step for manifest in self.steps)
