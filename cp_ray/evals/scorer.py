"""A base model with all its adapters, giving the probabilities of a question's options.

Rows for different adapters share a batch. What lies below the first adapted layer is the same for all of them, so it
is computed once per question and not once per adapter.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs as pafs
import torch

from cp_ray.branches import Batch, Branches, answer_logprobs, collate, encode, hidden_states, token_logprobs
from cp_ray.llm.embedded import load_base
from cp_ray.lora import StackedLora
from cp_ray.records import Message
from cp_ray.trunk import FAMILIES, crown, trunk

if TYPE_CHECKING:
    from cp_ray.pipeline import Folder

__all__ = ["Asked", "Scorer"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question put to several models."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]
    models: tuple[str | None, ...]
    """Adapters; None is the bare base."""


class Scorer:
    """Loads the base and the adapters, from folders on any pyarrow filesystem.

    Raises:
        BaseModelError: one of them cannot be loaded.
    """

    def __init__(self, base: str, adapters: "Mapping[str, Folder]") -> None:
        self.model, self.tokenizer = load_base(base)
        with tempfile.TemporaryDirectory(prefix="cp_ray-adapters-") as local:
            folders = {name: _fetch(folder, Path(local, str(k))) for k, (name, folder) in enumerate(adapters.items())}
            self.lora = StackedLora(self.model, folders)
        layers = self.model.get_decoder().layers
        adapted = [k for k, layer in enumerate(layers) if self.lora.touches(layer)]
        self.depth = min(adapted, default=len(layers)) if self.model.config.model_type in FAMILIES else 0

    @torch.inference_mode()
    def option_shares(self, asked: Sequence[Asked]) -> list[list[tuple[float, ...]]]:
        """For each question and each of its models, the probability of each option among the options.

        An option's probability is that of its whole text followed by the end of the turn.
        """
        rows = [encode(self.tokenizer, a.messages, [(option, 1.0) for option in a.options]) for a in asked]
        models = [model for a in asked for model in a.models]
        of_row = [k for k, a in enumerate(asked) for _ in a.models]
        logprobs = self._logprobs(rows, of_row, models)
        shares = iter(logprobs)
        return [[_softmax([next(shares) for _ in a.options]) for _ in a.models] for a in asked]

    def _logprobs(self, rows: Sequence[Branches], of_row: Sequence[int], models: Sequence[str | None]) -> list[float]:
        """Of every answer of every (question, model), in order."""
        pad = self.tokenizer.pad_token_id
        below = self._to_device(collate(rows, pad, self.model.dtype))
        batch = self._to_device(collate([rows[k] for k in of_row], pad, self.model.dtype))
        decoder = self.model.get_decoder()
        if self.depth:
            hidden = trunk(decoder, self.depth, below.input_ids, below.positions, below.mask)[list(of_row)]
        with self.lora.rows(models):
            if self.depth:
                states = crown(decoder, self.depth, hidden, batch.positions, batch.mask)
            else:
                states = hidden_states(self.model, batch)
            found: list[float] = answer_logprobs(token_logprobs(self.model, states, batch), batch).tolist()
            return found

    def _to_device(self, batch: Batch) -> Batch:
        return batch.to(self.model.device)


def _fetch(folder: "Folder", target: Path) -> Path:
    target.mkdir()
    pafs.copy_files(folder.path, str(target), source_filesystem=folder.filesystem)
    return target


def _softmax(logs: Sequence[float]) -> tuple[float, ...]:
    top = max(logs)
    powers = [math.exp(value - top) for value in logs]
    return tuple(power / sum(powers) for power in powers)
