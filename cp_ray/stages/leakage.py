"""leakage: is any text that is to be trained on a held-out question in other words?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.devices import model_actors
from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.records import Mixture, Nearness, Opinion, Paraphrase, Seed
from cp_ray.stages.text import holds

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["LeakageConfig", "leakage", "texts_to_check"]

NEAR = "near a held-out question"
HELD = "has a held-out question in it"


@dataclass(frozen=True)
class LeakageConfig:
    """How near is too near."""

    tau: float = 0.8
    """Greatest cosine of a text's sentence vector and a held-out question's."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ConfigError(f"tau: must be above 0 and at most 1, got {self.tau}")


def texts_to_check(
    seeds: Iterable[Seed],
    opinions: Iterable[Opinion],
    wordings: Iterable[Paraphrase],
    mixtures: Iterable[Mixture] = (),
) -> list[Nearness]:
    """Every text that training rows are made of: questions, once, other wordings, questions made of two, opinions."""
    found: dict[str, Nearness] = {}
    for seed in seeds:
        if seed.split == "train":
            found.setdefault(seed.question_id, Nearness(seed.question_id, seed.question))
    made: list[Opinion | Paraphrase | Mixture] = [*wordings, *mixtures, *opinions]
    found |= {row.id: Nearness(row.id, row.text) for row in made if row.reject is None}
    return list(found.values())


def leakage(texts: "Dataset", heldout: Sequence[tuple[str, str]], config: LeakageConfig) -> "Dataset":
    """The texts with their nearest held-out question; those that are too near are rejected.

    Args:
        texts: rows of `Nearness`.
        heldout: id and words of each held-out question.
        config: how near is too near.
    """
    return texts.map_batches(
        _Nearest,
        fn_constructor_args=(tuple(heldout), config),
        batch_format="pyarrow",
        batch_size=1024,
        **model_actors(workers=1),
    )


class _Nearest:
    def __init__(self, heldout: Sequence[tuple[str, str]], config: LeakageConfig) -> None:
        self._tau, self._heldout = config.tau, heldout
        self._embedder = Embedder(config.embedder)
        self._vectors = self._embedder.encode([question for _, question in heldout])

    def __call__(self, table: pa.Table) -> pa.Table:
        cosines = self._embedder.encode(table["text"].to_pylist()) @ self._vectors.T
        nearest = cosines.argmax(axis=1)
        rows = [
            self._row(row, k, float(c[k]))
            for row, c, k in zip(from_table(table, Nearness), cosines, nearest, strict=True)
        ]
        return to_table(rows, Nearness)

    def _row(self, given: Nearness, nearest: int, cosine: float) -> Nearness:
        held = next((id for id, question in self._heldout if holds(given.text, question)), None)
        if held is not None:
            return Nearness(given.id, given.text, held, cosine, HELD)
        id, _ = self._heldout[nearest]
        return Nearness(given.id, given.text, id, cosine, NEAR if cosine > self._tau else None)
