"""What a people's answers on one scale have in common, whatever was asked (partial pooling)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from cp_ray.records import Seed

__all__ = ["Scale", "pooled", "scale_means"]

Scale = tuple[str, tuple[str, ...]]
"""A culture's id, and the options of a question."""


def scale_means(seeds: Sequence[Seed]) -> Mapping[Scale, tuple[float, ...]]:
    """Each culture's mean shares [options] over its training questions that have the same options."""
    alike: dict[Scale, list[tuple[float, ...]]] = {}
    for seed in seeds:
        if seed.split == "train":
            alike.setdefault((seed.culture, seed.options), []).append(seed.distribution)
    return {scale: tuple(map(fmean, zip(*found, strict=True))) for scale, found in alike.items()}


def pooled(seeds: Sequence[Seed], share: float) -> list[Seed]:
    """Training seeds, a share of whose answers are their culture's mean on the same scale."""
    means = scale_means(seeds)
    return [
        replace(
            seed,
            distribution=tuple(
                (1 - share) * own + share * mean
                for own, mean in zip(seed.distribution, means[seed.culture, seed.options], strict=True)
            ),
        )
        for seed in seeds
    ]
