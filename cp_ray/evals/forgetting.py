"""What an adapter has cost: how well it still predicts neutral text, and how often it would go on as its base does.

The text is our own and about things on which cultures do not differ (`neutral.txt`), so this needs no download. Both
figures stand beside the base's.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from cp_ray.errors import ConfigError
from cp_ray.evals.intervals import Interval, ratio_interval
from cp_ray.evals.nulls import BASE
from cp_ray.llm.contents import OnBase
from cp_ray.records import Score, TextLoss

if TYPE_CHECKING:
    from torch import Tensor

    from cp_ray.evals.scorer import Scorer
    from cp_ray.folder import Folder

__all__ = ["TASK", "ForgettingConfig", "forgetting_scores", "neutral_texts", "text_losses"]

TASK = "forgetting"


@dataclass(frozen=True)
class ForgettingConfig(OnBase):
    """Which models read what."""

    adapters: tuple[str, ...]
    texts: tuple[str, ...]
    resamples: int = 2000
    seed: int = 0
    whole: bool = False
    """The trained models have all weights, and are no adapters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.texts or not all(text.strip() for text in self.texts):
            raise ConfigError("texts: must be at least one, and none of them empty")
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")


def neutral_texts() -> tuple[str, ...]:
    """Twenty paragraphs of our own."""
    text = resources.files("cp_ray.evals").joinpath("neutral.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())


def text_losses(config: ForgettingConfig, folders: "Mapping[str, Folder]") -> list[TextLoss]:
    """What each model makes of each text: a row a model and text.

    Args:
        config: who reads what.
        folders: of the adapters, or of whole models, by name.

    Raises:
        BaseModelError: the base or one of them cannot be loaded.
    """
    from cp_ray.evals.scorer import Scorer

    if config.whole:
        read = _read(Scorer(config.base_model, {}), (BASE,), config.texts)
        for name in config.adapters:
            read += _read(Scorer(folders[name], {}), (name,), config.texts)
    else:
        read = _read(Scorer(config.base_model, folders), (BASE, *config.adapters), config.texts)
    base = {one.text: one.likeliest for one in read if one.model == BASE}
    return [
        TextLoss(
            one.model, str(one.text), len(one.likeliest), one.nats,
            sum(a == b for a, b in zip(one.likeliest, base[one.text], strict=True)),
        )
        for one in read
    ]  # fmt: skip


@dataclass(frozen=True)
class _Read:
    """A text, as a model reads it."""

    model: str
    text: int
    nats: float
    likeliest: list[int]
    """After each token."""


def _read(scorer: "Scorer", models: Sequence[str], texts: Sequence[str]) -> list[_Read]:
    """By the scorer's adapters; any other name is its base."""
    import torch

    first = scorer.tokenizer.bos_token_id
    begin = [scorer.tokenizer.eos_token_id if first is None else first]
    adapters = [name if name in scorer.lora.names else None for name in models]
    found = []
    for number, text in enumerate(texts):
        ids = torch.tensor([begin + scorer.tokenizer(text, add_special_tokens=False).input_ids[: scorer.context - 1]])
        with torch.inference_mode(), scorer.lora.rows(adapters):
            logits = scorer.model(ids.expand(len(models), -1).to(scorer.model.device), use_cache=False).logits
            nats, likeliest = _judged(logits[:, :-1].float(), ids[0, 1:].to(logits.device))
        found += [_Read(*one) for one in zip(models, len(models) * [number], nats, likeliest, strict=True)]
    return found


def _judged(logits: "Tensor", wanted: "Tensor") -> tuple[list[float], list[list[int]]]:
    """Of [models, tokens, vocabulary]: each model's nats for the wanted tokens, and its likeliest ones."""
    import torch

    nats = -torch.log_softmax(logits, dim=-1).gather(2, wanted[None, :, None].expand(len(logits), -1, 1))[..., 0]
    found: tuple[list[float], list[list[int]]] = nats.sum(dim=1).tolist(), logits.argmax(dim=-1).tolist()
    return found


def forgetting_scores(losses: Iterable[TextLoss], config: ForgettingConfig) -> list[Score]:
    """Perplexity per token, and the share of tokens after which the base would go on alike; intervals over texts."""
    own: dict[str, list[TextLoss]] = defaultdict(list)
    for row in losses:
        own[row.model].append(row)
    scores = []
    for model, rows in own.items():
        tokens = [float(row.tokens) for row in rows]
        read = [row.nats for row in rows]
        # A training that diverged may come to numbers that are none; nothing in the text was expected then.
        lost = not all(map(math.isfinite, read))
        nats = Interval(math.inf, math.inf, math.inf) if lost else _over(read, tokens, config)
        same = _over([float(row.agreed) for row in rows], tokens, config)
        low, mean, high = (math.exp(x) if x < 700 else math.inf for x in (nats.low, nats.mean, nats.high))
        scores.append(Score(model, "", TASK, "perplexity", mean, low, high, len(rows)))
        scores.append(
            Score(model, "", TASK, "agreement", same.mean, max(0.0, same.low), min(1.0, same.high), len(rows))
        )
    return scores


def _over(values: Sequence[float], tokens: Sequence[float], config: ForgettingConfig) -> Interval:
    return ratio_interval(values, tokens, resamples=config.resamples, seed=config.seed)
