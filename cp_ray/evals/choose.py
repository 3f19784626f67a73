"""The local door: a base with adapters chooses among the options of items, by log-probability.

All adapters share one base and one pass (`scorer`), whole models have one each; every model sees the same chats. The
items are spread over Ray Data actors, those of like length together. Models behind an endpoint answer the same items in
`answer`.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.devices import model_actors
from cp_ray.evals.nulls import BASE
from cp_ray.llm.contents import OnBase
from cp_ray.records import Item, Prediction
from cp_ray.training.config import UNIFIED

if TYPE_CHECKING:
    from cp_ray.folder import Folder
    from cp_ray.progress import Progress

__all__ = ["NOT_FINITE", "TOO_LONG", "WHOLE", "LocalModels", "choose", "predicted", "softmax"]

_BLOCK = 64
"""Items that a worker is given at once: enough to sort by length, few enough to lose little when it dies."""

TOO_LONG = "longer than the model's context"
NOT_FINITE = "the model has come to numbers that are not finite"

WHOLE = "log-probabilities of whole options"
"""How local models are asked; models behind endpoints where their server can be (`answer`)."""


@dataclass(frozen=True)
class LocalModels(OnBase):
    """A base and what was trained on it."""

    adapters: tuple[str, ...] = ()
    """Ids of the cultures whose adapters are asked; the untrained base always is."""
    everywhere: bool = True
    """Adapters are asked about every culture's items; otherwise about their own culture's (a unified one: all)."""
    whole: bool = False
    """They are models with all weights and no adapters: each is a base of its own."""

    def asked(self, item: Item) -> tuple[str, ...]:
        """Which adapters, or whole models, are asked this item."""
        if self.everywhere:
            return self.adapters
        return tuple(name for name in self.adapters if name in (item.culture, UNIFIED))


@dataclass(frozen=True)
class _Loaded:
    """What a worker holds: a base, and adapters that share each pass with it."""

    name: str
    """Of the bare base."""
    base: "str | Folder"
    adapters: "Mapping[str, Folder]"


def choose(
    items: Sequence[Item],
    models: LocalModels,
    folders: "Mapping[str, Folder]",
    *,
    workers: int,
    progress: "Progress | None" = None,
    answered: Container[tuple[str, str]] = (),
) -> Iterator[pa.Table]:
    """What the base and each adapter choose, as tables of `Prediction`.

    Whole models are asked one after the other.

    Args:
        items: what is asked.
        models: who is asked.
        folders: of the adapters, or of whole models, by name.
        workers: processes, each with the models in its memory and a GPU, as many as there are, or a core.
        progress: counts answers.
        answered: model and item of what is known already; a base's answer stands for its adapters'.
    """
    if models.whole:
        loaded = [_Loaded(BASE, models.base_model, {}), *(_Loaded(name, folders[name], {}) for name in models.adapters)]
    else:
        loaded = [_Loaded(BASE, models.base_model, folders)]
    for one in loaded:
        rows = [
            item for item in items
            if (one.name == BASE or one.name in models.asked(item)) and (one.name, item.id) not in answered
        ]  # fmt: skip
        if rows:
            yield from _spread(rows, models, one, workers, progress)


def _spread(
    items: Sequence[Item], models: LocalModels, loaded: _Loaded, workers: int, progress: "Progress | None"
) -> Iterator[pa.Table]:
    import ray.data

    rows = sorted(items, key=_length)
    # The longest first, and several blocks for each worker: whoever began on much last would be waited for.
    size = min(_BLOCK, -(-len(rows) // (4 * workers)))
    blocks = [to_table(rows[k : k + size], Item) for k in range(0, len(rows), size)][::-1]
    dataset = ray.data.from_arrow(blocks).map_batches(
        _Chooser,
        fn_constructor_args=(models, loaded, progress),
        batch_format="pyarrow",
        batch_size=size,  # a block; with GPUs Ray Data wants a number
        **model_actors(workers),
    )
    # Each block is handed on as it is done: whoever keeps them loses nothing that was computed.
    yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0)


def _length(item: Item) -> tuple[int, int, str]:
    return (len(item.options), sum(len(m.content.encode()) for m in item.messages), item.id)


class _Chooser:
    """Holds the base with all adapters, in a Ray Data actor."""

    def __init__(self, models: LocalModels, loaded: _Loaded, progress: "Progress | None") -> None:
        import torch

        from cp_ray.evals.scorer import Scorer

        torch.set_num_threads(1)
        self.scorer = Scorer(loaded.base, loaded.adapters)
        self.models, self.loaded, self.progress = models, loaded, progress

    def __call__(self, table: pa.Table) -> pa.Table:
        from cp_ray.evals.scorer import Asked

        items = from_table(table, Item)
        asked = [Asked(item.messages, item.options, self._asked(item)) for item in items]
        rows = []
        for item, one, shares in zip(items, asked, self.scorer.option_shares(asked), strict=True):
            rows += [
                predicted(item, model or self.loaded.name, own)
                for model, own in zip(one.models, shares or [()] * len(one.models), strict=True)
            ]
        if self.progress is not None:
            self.progress.add(done=len(rows))
        return to_table(rows, Prediction)

    def _asked(self, item: Item) -> tuple[str | None, ...]:
        """Who is asked; None is the bare base."""
        return (None, *(name for name in self.models.asked(item) if name in self.loaded.adapters))


def predicted(item: Item, model: str, shares: tuple[float, ...], lost: float = 0.0) -> Prediction:
    """A model's answer to an item by its probabilities, the likeliest option first in the scale where two are level.

    None at all mean that the chat is too long; those that are not finite, as a training that diverged leaves them, are
    no answer.
    """
    finite = all(map(math.isfinite, shares))
    shares = shares if finite else ()
    return Prediction(
        id=f"{model}/{item.id}",
        model=model,
        culture=item.culture,
        task=item.task,
        item=item.id,
        output=item.options[shares.index(max(shares))] if shares else "",
        probabilities=shares,
        lost=lost,
        way=WHOLE,
        reject=None if shares else TOO_LONG if finite else NOT_FINITE,
    )


def softmax(logs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities of what has these log-probabilities, among themselves."""
    top = max(logs)
    powers = [math.exp(value - top) for value in logs]
    return tuple(power / sum(powers) for power in powers)
