"""What an adapter has cost: how well it still predicts neutral text, and how often it would go on as its base does.

The text is our own and about things on which cultures do not differ (`neutral.txt`), so this needs no download. Both
figures stand beside the base's.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from cp_ray.errors import ConfigError
from cp_ray.evals.intervals import Interval, ratio_interval
from cp_ray.evals.nulls import BASE
from cp_ray.records import Score, TextLoss

if TYPE_CHECKING:
    from cp_ray.folder import Folder

__all__ = ["TASK", "ForgettingConfig", "forgetting_scores", "neutral_texts", "text_losses"]

TASK = "forgetting"


@dataclass(frozen=True)
class ForgettingConfig:
    """Which models read what."""

    base_model: str
    adapters: tuple[str, ...]
    texts: tuple[str, ...]
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.texts or not all(text.strip() for text in self.texts):
            raise ConfigError("texts: must be at least one, and none of them empty")
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")


def neutral_texts() -> tuple[str, ...]:
    """Twenty paragraphs of our own."""
    text = resources.files("cp_ray.evals").joinpath("neutral.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())


def text_losses(config: ForgettingConfig, adapters: "Mapping[str, Folder]") -> list[TextLoss]:
    """What each model makes of each text: a row a model and text.

    Raises:
        BaseModelError: the base or an adapter cannot be loaded.
    """
    import torch

    from cp_ray.evals.scorer import Scorer

    scorer = Scorer(config.base_model, adapters)
    first = scorer.tokenizer.bos_token_id
    begin = [scorer.tokenizer.eos_token_id if first is None else first]
    models = (None, *config.adapters)
    rows = []
    for number, text in enumerate(config.texts):
        ids = torch.tensor([begin + scorer.tokenizer(text, add_special_tokens=False).input_ids[: scorer.context - 1]])
        with torch.inference_mode(), scorer.lora.rows(models):
            logits = scorer.model(ids.expand(len(models), -1).to(scorer.model.device), use_cache=False).logits
        rows += _rows(models, number, logits[:, :-1].float(), ids[0, 1:].to(logits.device))
    return rows


def _rows(models: Sequence[str | None], number: int, logits: Any, wanted: Any) -> list[TextLoss]:
    """Of each model's logits [models, tokens, vocabulary] for one text, the base's being first."""
    import torch

    nats = -torch.log_softmax(logits, dim=-1).gather(2, wanted[None, :, None].expand(len(models), -1, 1))[..., 0]
    likeliest = logits.argmax(dim=-1)
    agreed = (likeliest == likeliest[0]).sum(dim=1).tolist()
    return [
        TextLoss(model or BASE, str(number), len(wanted), float(own), int(same))
        for model, own, same in zip(models, nats.sum(dim=1).tolist(), agreed, strict=True)
    ]


def forgetting_scores(losses: Iterable[TextLoss], config: ForgettingConfig) -> list[Score]:
    """Perplexity per token, and the share of tokens after which the base would go on alike; intervals over texts."""
    own: dict[str, list[TextLoss]] = defaultdict(list)
    for row in losses:
        own[row.model].append(row)
    scores = []
    for model, rows in own.items():
        tokens = [float(row.tokens) for row in rows]
        nats = _over([row.nats for row in rows], tokens, config)
        same = _over([float(row.agreed) for row in rows], tokens, config)
        low, mean, high = (math.exp(x) if x < 700 else math.inf for x in (nats.low, nats.mean, nats.high))
        scores.append(Score(model, "", TASK, "perplexity", mean, low, high, len(rows)))
        scores.append(
            Score(model, "", TASK, "agreement", same.mean, max(0.0, same.low), min(1.0, same.high), len(rows))
        )
    return scores


def _over(values: Sequence[float], tokens: Sequence[float], config: ForgettingConfig) -> Interval:
    return ratio_interval(values, tokens, resamples=config.resamples, seed=config.seed)
