"""What a training run is, and where it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.llm.contents import OnBase
from cp_ray.survey.items import Source

__all__ = ["METHODS", "OBJECTIVES", "UNIFIED", "WHOLE_RATE", "AdapterConfig", "Placement", "TrainConfig", "hub_name"]

METHODS = ("lora", "dora", "qlora", "full")
"""`lora`, `dora`: adapters on the base as it is; `qlora`: LoRA on a base in 4 bits; `full`: every weight."""

WHOLE_RATE = 1e-4
"""A learning rate for all weights (`full`): at an adapter's, one step makes the base forget how to speak."""

UNIFIED = "unified"
"""The model of all cultures; each is named in the system prompt (CultureLLM-One)."""

OBJECTIVES = ("answers", "distribution")

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter: whose rows it learns from, and how. It is the same alone and beside others."""

    name: str
    """A culture's id, or `unified`."""
    cultures: tuple[Culture, ...]
    """Whose rows; their words go into the model card and the served system prompt."""
    learning_rate: float = 2e-3
    """An adapter's; all weights want `WHOLE_RATE`."""
    passes: int = 10
    """Over the distinct prompts."""
    batch_size: int = 8
    """Distinct prompts per optimiser step, over all workers."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; then it falls to 0 in a straight line."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    patience: int | None = None
    """Stop after so many validations without a smaller loss; None: never. The best weights are kept either way."""

    def __post_init__(self) -> None:
        _at_least(1, passes=self.passes, batch_size=self.batch_size)
        if self.patience is not None:
            _at_least(1, patience=self.patience)
        if not self.cultures:
            raise ConfigError(f"cultures: {self.name} has none; name one at least")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate: must be between 0 and 1, got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup: must be a share from 0 to below 1, got {self.warmup}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay: must not be negative, got {self.weight_decay}")
        if not 0 < self.max_grad_norm < math.inf:
            raise ConfigError(f"max_grad_norm: must be above 0, got {self.max_grad_norm}")


@dataclass(frozen=True)
class TrainConfig(OnBase):
    """All that changes the adapters: one of a culture, one of all cultures, or many side by side on one base."""

    adapters: tuple[AdapterConfig, ...]
    survey: Source
    """Where the answers come from, for the model card."""
    method: str = "lora"
    dtype: str = "auto"
    """Of the base's weights and all that is computed with them. `auto`: of 16-bit weights bfloat16 where that is faster
    (GPUs, CPUs with AMX), else float32; weights that are stored in 32 bits stay so. In bfloat16 the same run on other
    numbers of workers differs in the third digit."""
    rank: int = 16
    alpha: int = 32
    layers: int | None = None
    """Adapt at most so many layers, the topmost; None for all. Those below then need computing only once."""
    objective: str = "answers"
    """`answers`: the likelihood of each answer, weighted with how often it was given; `distribution`: of the survey
    answers the cross-entropy between their shares and the model's, renormalised over the answers of the prompt."""
    opinion_weight: float = 0.1
    """Of an opinion against an answer: an opinion has ten times as many tokens, and would drown the answers."""
    max_tokens: int = 1024
    """Of a row: a prompt with as many of its answers as there is room for, and another row for the rest. An answer that
    is longer with its prompt is left out, and counted; so are a question's if all its options are together, where the
    objective is their `distribution`."""
    validation: float = 0.0
    """Share of an adapter's questions that is kept to validate with; the same of all cultures that have the same."""
    validate_every: int | None = None
    """Steps; None: those of a pass."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, rank=self.rank, alpha=self.alpha)
        if self.validate_every is not None:
            _at_least(1, validate_every=self.validate_every)
        _at_least(8, max_tokens=self.max_tokens)
        if self.layers is not None and self.layers < 1:
            raise ConfigError(f"layers: must be at least 1, or None for all, got {self.layers}")
        for name, choices in (("method", METHODS), ("objective", OBJECTIVES), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")
        if not 0 <= self.opinion_weight < math.inf:
            raise ConfigError(f"opinion_weight: must not be negative, got {self.opinion_weight}")
        if not 0 <= self.validation <= 0.5:
            raise ConfigError(f"validation: must be a share from 0 to 0.5, got {self.validation}")
        self._check_adapters()

    def _check_adapters(self) -> None:
        names = [adapter.name for adapter in self.adapters]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"adapters: need names of their own, one at least, got {', '.join(names) or 'none'}")
        if self.method == "full" and len(names) > 1:
            raise ConfigError("method: full trains one model at a time, since it changes the base; train them apart")
        if self.method == "full" and self.layers is not None:
            raise ConfigError("layers: full trains all of them; leave it out, or choose lora")
        patient = [adapter.name for adapter in self.adapters if adapter.patience is not None]
        if patient and not self.validation:
            raise ConfigError(f"patience: {patient[0]} is to stop early, but validation is 0; give it a share, say 0.1")


@dataclass(frozen=True)
class Placement:
    """Where it runs; the adapters are the same up to rounding."""

    workers: int = 2
    use_gpu: bool = False
    zero_stage: int | None = None
    """0 to 3; None: the least that fits (`cp_ray.training.zero`)."""
    offload: str | None = None
    """`none`, `optimizer`, or `all` (the parameters too, ZeRO-3); None: what is needed to fit."""
    micro_tokens: int | None = None
    """Tokens that a worker computes at once, padding included; less needs less memory, and what fits a CPU's caches is
    faster there. None: 4,096 on a GPU, else 512."""
    packing: bool = True
    """Several rows of an adapter in a line, none seeing another, what they begin with alike computed once. Without, a
    row has a line of its own, and rows of like length go together."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping what it made: a third more time, less memory."""
    checkpoint_every: int = 20
    """Steps."""
    max_failures: int = 3
    """Times that lost workers are replaced; -1: always."""
    deepspeed: Mapping[str, Any] | None = None
    """DeepSpeed settings that take the place of ours (`cp_ray.training.deepspeed_file.read_settings`)."""

    def __post_init__(self) -> None:
        _at_least(1, workers=self.workers, checkpoint_every=self.checkpoint_every)
        _at_least(16, micro_tokens=self.at_once)
        _at_least(-1, max_failures=self.max_failures)
        if self.zero_stage not in (None, 0, 1, 2, 3):
            raise ConfigError(f"zero_stage: must be 0, 1, 2 or 3, got {self.zero_stage}")
        if self.offload not in (None, "none", "optimizer", "all"):
            raise ConfigError(f"offload: must be none, optimizer or all, got {self.offload!r}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ConfigError("offload: optimizer needs ZeRO-1 at least, got zero_stage 0")
        if self.offload == "all" and self.zero_stage not in (None, 3):
            raise ConfigError(f"offload: all needs ZeRO-3, got zero_stage {self.zero_stage}")

    @property
    def at_once(self) -> int:
        """Tokens that a worker computes at once."""
        if self.micro_tokens is not None:
            return self.micro_tokens
        return 4096 if self.use_gpu else 512

    @property
    def line_tokens(self) -> int:
        """Of a packed line at most, since attention's products grow with its square.

        In a layer of an 8B model they are 13 % of all in a line of 4,096, and 4 % in lines of 1,024; a CPU feels them
        sooner.
        """
        return min(1024 if self.use_gpu else 256, self.at_once)


def hub_name(base_model: str) -> str:
    """A base model's name as others know it."""
    return "HuggingFaceTB/SmolLM2-135M-Instruct" if base_model == "smollm2" else base_model


def _at_least(least: int, **values: Any) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name}: must be at least {least}, got {value}")
