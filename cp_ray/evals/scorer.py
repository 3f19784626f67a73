"""A base model with all its adapters, giving the probabilities of a question's options.

Lines for different adapters share a batch. What lies below the first adapted layer is the same for all of them, so it
is computed once per line and not once per adapter. Questions that begin alike, such as one in two orders of its
options, stand in one line, and what they begin with is computed once.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cp_ray.branch_probe import check_branches
from cp_ray.branches import (
    Batch,
    Branches,
    Tree,
    answer_logprobs,
    collate_trees,
    common,
    encode,
    grow,
    hidden_states,
    seen,
    token_logprobs,
)
from cp_ray.causal import layers, text_config
from cp_ray.devices import best_device
from cp_ray.evals.choose import softmax
from cp_ray.llm.embedded import load_base
from cp_ray.lora import StackedLora
from cp_ray.packed_linear import pack
from cp_ray.records import Message
from cp_ray.trunk import FAMILIES, crown, trunk

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["Asked", "Scorer"]

_TOKENS, _TOKENS_ON_CPU = 4096, 1024
"""In a batch, over all models, padding included. More overflow a CPU's caches: 4,096 take it half as long again."""

_LINE = 256
"""Tokens of questions that share a line, at most: attention's products grow with its square."""


Line = list[int]
"""Places of questions that are computed together."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question put to several models."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]
    models: tuple[str | None, ...]
    """Adapters; None is the bare base."""


class Scorer:
    """Loads the base and the adapters, from folders on any pyarrow filesystem; the base may also be named.

    They are computed on a GPU if this process sees one.

    Raises:
        BaseModelError: one of them cannot be loaded, or the base cannot compute several options at once.
        PlacementError: the base does not fit the GPU.
    """

    def __init__(self, base: "str | Folder", adapters: "Mapping[str, Folder]") -> None:
        with tempfile.TemporaryDirectory(prefix="cp_ray-adapters-") as local:
            named = base if isinstance(base, str) else str(base.fetch(Path(local, "base")))
            self.model, self.tokenizer = load_base(named, device=best_device())
            pack(self.model)
            check_branches(self.model)
            folders = {name: folder.fetch(Path(local, str(k))) for k, (name, folder) in enumerate(adapters.items())}
            self.lora = StackedLora(self.model, folders)
        self.context = int(getattr(text_config(self.model), "max_position_embeddings", None) or 2048)
        own = layers(self.model)
        adapted = [k for k, layer in enumerate(own) if self.lora.touches(layer)]
        self.depth = min(adapted, default=len(own)) if self.model.config.model_type in FAMILIES else 0

    def option_shares(self, asked: Sequence[Asked], tokens: int | None = None) -> list[list[tuple[float, ...]]]:
        """For each question and each of its models, the probability of each option among the options.

        An option's probability is that of its whole text followed by the end of the turn. Nothing for a question that
        is longer than the model's context.

        Args:
            asked: the questions; those of like length share a batch.
            tokens: of a batch at most, over all models; a longer question has one to itself. None for what suits the
                device.
        """
        tokens = tokens or (_TOKENS_ON_CPU if self.model.device.type == "cpu" else _TOKENS)
        rows = [encode(self.tokenizer, a.messages, [(option, 1.0) for option in a.options]) for a in asked]
        found: list[list[tuple[float, ...]]] = [[] for _ in asked]
        for batch in self._batches(rows, asked, tokens):
            shares = self._shares([[asked[k] for k in line] for line, _ in batch], [tree for _, tree in batch])
            for k, own in zip((k for line, _ in batch for k in line), shares, strict=True):
                found[k] = own
        return found

    def _batches(
        self, rows: Sequence[Branches], asked: Sequence[Asked], tokens: int
    ) -> Iterator[list[tuple[Line, Tree]]]:
        """Lines of questions that fit the context, those of like length together."""
        fitting = [k for k, row in enumerate(rows) if self._longest(row) <= self.context]
        lines = [(line, grow([rows[k] for k in line])) for line in _lines(fitting, rows, asked)]
        batch: list[tuple[Line, Tree]] = []
        models = 0
        for line, tree in sorted(lines, key=lambda of: len(of[1].tokens)):
            more = len(asked[line[0]].models)
            if batch and (models + more) * len(tree.tokens) > tokens:
                yield batch
                batch, models = [], 0
            batch.append((line, tree))
            models += more
        if batch:
            yield batch

    @staticmethod
    def _longest(row: Branches) -> int:
        return len(row.prompt) + max(map(len, row.answers))

    @torch.inference_mode()
    def _shares(self, asked: Sequence[Sequence[Asked]], trees: Sequence[Tree]) -> list[list[tuple[float, ...]]]:
        """Of every question, line by line, and each of its models."""
        models = [model for line in asked for model in line[0].models]
        of_line = [k for k, line in enumerate(asked) for _ in line[0].models]
        logprobs = iter(self._logprobs(trees, of_line, models))
        found: list[list[tuple[float, ...]]] = []
        for line in asked:
            by_model = [[softmax([next(logprobs) for _ in a.options]) for a in line] for _ in line[0].models]
            found += [list(own) for own in zip(*by_model, strict=True)]
        return found

    def _logprobs(self, trees: Sequence[Tree], of_line: Sequence[int], models: Sequence[str | None]) -> list[float]:
        """Of every answer of every (line, model), in order."""
        pad = self.tokenizer.pad_token_id
        below = self._to_device(collate_trees(trees, pad))
        batch = self._to_device(collate_trees([trees[k] for k in of_line], pad))
        decoder = self.model.get_decoder()
        if self.depth:
            hidden = trunk(decoder, self.depth, below.input_ids, below.positions, seen(self.model, below))
        with self.lora.rows(models):
            if self.depth:
                states = crown(decoder, self.depth, hidden[list(of_line)], batch.positions, seen(self.model, batch))
            else:
                states = hidden_states(self.model, batch)
            found: list[float] = answer_logprobs(token_logprobs(self.model, states, batch), batch).tolist()
            return found

    def _to_device(self, batch: Batch) -> Batch:
        return batch.to(self.model.device)


def _lines(some: Sequence[int], rows: Sequence[Branches], asked: Sequence[Asked]) -> list[Line]:
    """Questions that have half of their tokens in common, and the same models, in a line; all others by themselves."""
    found: list[Line] = []
    tokens = 0
    for k in sorted(some, key=lambda k: rows[k].prompt):
        if found:
            last, own = found[-1][-1], rows[k]
            alike = common(rows[last].prompt, own.prompt)
            more = own.tokens - alike
            if asked[last].models == asked[k].models and 2 * alike >= own.tokens and tokens + more <= _LINE:
                found[-1].append(k)
                tokens += more
                continue
        found.append([k])
        tokens = rows[k].tokens
    return found
