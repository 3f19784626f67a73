"""Stacked LoRA: many adapters on one frozen base, chosen per row of a batch; they come and go while it is in use.

Each adapted layer holds the adapters' matrices in two tensors, one place for each adapter (`stacked_linear`). A pass
runs over the first places only: the adapters that a batch needs are moved there, so those that are merely loaded cost
memory once and no time.

A DoRA adapter (arXiv:2402.09353) also learns how long each row of W + BA is to be: its rows' outputs are scaled by
that length over the one that W + BA has, which is the same for every input and computed once.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from cp_ray.peft_folder import Added, linear_of, read_adapter
from cp_ray.stacked_linear import Selection, StackedLinear

__all__ = ["StackedLora"]

_SPARE = 4
"""Places added at once where one more is needed."""


class StackedLora:
    """LoRA adapters on one model, chosen per row of a batch.

    LoRA and DoRA. The result of a row equals PEFT's with that adapter, to float tolerance. Outside of `rows` the model
    is the bare base. Not for several threads.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, Path]) -> None:
        """Put adapters on a model.

        Args:
            model: its target `nn.Linear` modules are replaced.
            adapters: PEFT folders (adapter_config.json, adapter_model.safetensors) by name; ranks and target
                modules may differ.

        Raises:
            BaseModelError: a folder is not a LoRA or DoRA adapter in safetensors, or was made for another base.
        """
        self._model = model
        self._device = next(model.parameters()).device
        self._selection = Selection()
        self._chosen: tuple[Sequence[str | None] | None, Sequence[int] | None] = None, None
        self._layers: dict[str, StackedLinear] = {}
        self._places: list[str | None] = [None] * len(adapters)
        for name, folder in adapters.items():
            self.add(name, self.read(name, folder))

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are on the model."""
        return tuple(name for name in self._places if name is not None)

    @property
    def nbytes(self) -> int:
        """Memory that the adapters take."""
        stacks = [s for layer in self._layers.values() for s in (layer.down, layer.up, layer.stretch) if s is not None]
        return sum(stack.nbytes for stack in stacks)

    def read(self, name: str, folder: Path) -> dict[str, Added]:
        """A PEFT folder's matrices, checked against the base; may run in another thread than the model.

        Raises:
            BaseModelError: as in the constructor.
        """
        return read_adapter(name, folder, lambda path: self._linear(path, name))

    @torch.no_grad()
    def add(self, name: str, matrices: Mapping[str, Added]) -> None:
        """Put one more adapter on the model.

        Args:
            name: one that is not on it.
            matrices: from `read`.
        """
        if name in self._places:
            raise ValueError(f"adapter {name!r} is on the model already")
        if None not in self._places:
            self._places += [None] * _SPARE
            for layer in self._layers.values():
                layer.resize(len(self._places), layer.down.shape[1])
        place = self._places.index(None)
        for path in matrices:
            if path not in self._layers:
                self._layers[path] = self._stacked(path)
        for path, layer in self._layers.items():
            layer.put(place, matrices.get(path))
        self._places[place] = name

    @torch.no_grad()
    def remove(self, name: str) -> None:
        """Take an adapter off; its place is the next one's.

        Raises:
            KeyError: it is not on the model.
        """
        place = self._place(name)
        for layer in self._layers.values():
            layer.put(place, None)
        self._places[place] = None

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None], counts: Sequence[int] | None = None) -> Iterator[None]:
        """Select an adapter per row for the forward passes inside; None is the bare base.

        Args:
            names: one for each row of the batch.
            counts: tokens of each, if the batch is one row in which they are fed one behind the other: those with a
                single token first, and padding at the end only if there are others.

        Raises:
            KeyError: an adapter is not on the model.
        """
        before = self._chosen
        self._select(names, counts)
        try:
            yield
        finally:
            self._select(*before)

    @staticmethod
    def touches(module: nn.Module) -> bool:
        """Does an adapter change anything inside this module?"""
        return any(isinstance(part, StackedLinear) for part in module.modules())

    def _select(self, names: Sequence[str | None] | None, counts: Sequence[int] | None) -> None:
        needed = {self._place(name) for name in names or () if name is not None}
        selection = self._selection
        if needed and max(needed) >= _room(len(needed)):
            self._compact(needed)
        self._chosen = names, counts
        selection.choose([-1 if name is None else self._place(name) for name in names or ()], self._device, counts)

    @torch.no_grad()
    def _compact(self, needed: set[int]) -> None:
        """Move the needed adapters to the first places."""
        free = [place for place in range(len(needed)) if place not in needed]
        for place in sorted(needed):
            if place >= len(needed):
                to = free.pop(0)
                for layer in self._layers.values():
                    layer.swap(place, to)
                self._places[place], self._places[to] = self._places[to], self._places[place]

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise KeyError(name)
        return self._places.index(name)

    def _linear(self, path: str, adapter: str) -> nn.Linear:
        known = self._layers.get(path)
        return known.base if known else linear_of(self._model, path, adapter)

    def _stacked(self, path: str) -> StackedLinear:
        parent, _, leaf = path.rpartition(".")
        layer = StackedLinear(linear_of(self._model, path), self._selection, len(self._places))
        setattr(self._model.get_submodule(parent), leaf, layer)
        return layer


def _room(needed: int) -> int:
    """Places that a pass may run over for so many adapters; moving one costs about as much as a pass over a few."""
    return needed + needed // 2 + 1
