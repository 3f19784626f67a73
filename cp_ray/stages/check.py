"""check: which wordings ask the same as the question they were made from, by rules and sentence vectors, offline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.devices import model_actors
from cp_ray.paraphrase.meaning import Meaning, MeaningConfig
from cp_ray.records import Paraphrase

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["CheckConfig", "check"]


@dataclass(frozen=True)
class CheckConfig:
    """How wordings are judged."""

    meaning: MeaningConfig


def check(paraphrases: "Dataset", config: CheckConfig) -> "Dataset":
    """All wordings with their similarity; those that do not ask the same are rejected with the reason."""
    return paraphrases.map_batches(
        _Check,
        fn_constructor_args=(config,),
        batch_format="pyarrow",
        batch_size=256,
        **model_actors(workers=1),
    )


class _Check:
    def __init__(self, config: CheckConfig) -> None:
        self._meaning = Meaning(config.meaning)

    def __call__(self, table: pa.Table) -> pa.Table:
        return to_table(self._judged(from_table(table, Paraphrase)), Paraphrase)

    def _judged(self, rows: Sequence[Paraphrase]) -> list[Paraphrase]:
        counting = [row for row in rows if row.reject is None]
        judged = self._meaning.judge([(row.question, row.text) for row in counting])
        found = {row.id: judgement for row, judgement in zip(counting, judged, strict=True)}
        return [
            replace(row, similarity=found[row.id].similarity, reject=found[row.id].reject) if row.id in found else row
            for row in rows
        ]
