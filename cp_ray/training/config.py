"""What a training run is, and where it runs."""

import math
from dataclasses import dataclass
from typing import Any

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.survey.items import Source

__all__ = ["Placement", "TrainConfig", "deepspeed_config"]


@dataclass(frozen=True)
class TrainConfig:
    """All that changes the adapter."""

    base_model: str
    culture: Culture
    """Whose adapter; its words go into the model card and the served system prompt."""
    survey: Source
    """Where the answers come from, for the model card."""
    rank: int = 16
    alpha: int = 32
    layers: int | None = None
    """Adapt only so many layers, the topmost; None for all. Those below then need computing only once."""
    learning_rate: float = 2e-3
    passes: int = 10
    """Over the distinct prompts."""
    batch_size: int = 8
    """Distinct prompts per optimiser step, over all workers."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; then it falls to 0 in a straight line."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    opinion_weight: float = 0.1
    """Of an opinion against an answer: an opinion has ten times as many tokens, and would drown the answers."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "passes", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.layers is not None and self.layers < 1:
            raise ConfigError(f"layers: must be at least 1, or None for all, got {self.layers}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate: must be between 0 and 1, got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup: must be a share from 0 to below 1, got {self.warmup}")
        for name in ("weight_decay", "opinion_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: must not be negative, got {getattr(self, name)}")
        if not 0 < self.max_grad_norm < math.inf:
            raise ConfigError(f"max_grad_norm: must be above 0, got {self.max_grad_norm}")

    @property
    def hub_name(self) -> str:
        """The base model's name as others know it."""
        return "HuggingFaceTB/SmolLM2-135M-Instruct" if self.base_model == "smollm2" else self.base_model


@dataclass(frozen=True)
class Placement:
    """Where it runs; the adapter is the same up to rounding."""

    workers: int = 2
    use_gpu: bool = False
    zero_stage: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers: must be at least 1, got {self.workers}")
        if self.zero_stage not in (0, 1, 2):
            raise ConfigError(f"zero_stage: must be 0, 1 or 2, got {self.zero_stage}")


def deepspeed_config(config: TrainConfig, placement: Placement, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's settings. The optimiser is torch's own AdamW: DeepSpeed's would be compiled first."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": placement.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
