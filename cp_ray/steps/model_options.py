"""How a recipe's culture models are trained, as its command line says it."""

from dataclasses import dataclass, fields, replace

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.recipe import Options, check_choice, check_least, option
from cp_ray.survey.items import Source
from cp_ray.training.config import METHODS, OBJECTIVES, UNIFIED, WHOLE_RATE, AdapterConfig, Placement, TrainConfig
from cp_ray.training.hosted.config import HostedConfig

__all__ = ["ModelOptions"]

_HOSTED = {"training", "unified", "passes", "layers", "workers", "trainer", "trainer_model", "trainer_url"}
"""What may be said with a hosted trainer; passes and layers since recipes have defaults of their own for them."""


@dataclass(frozen=True)
class ModelOptions:
    """What every recipe that ends with culture models takes."""

    tuning: str = option("lora", "lora, dora, qlora (the base in 4 bits), or full (every weight, one model at a time)")
    training: str = option(
        "joint", "joint (all cultures' adapters in one run) or separate (one run each); the adapters are the same"
    )
    unified: str = option("no", "yes: one adapter of all cultures too")
    objective: str = option(
        "answers", "of survey answers: answers (their likelihood) or distribution (the shares of a question's options)"
    )
    passes: int = option(3, "over the training rows; a hosted trainer chooses its own")
    batch_size: int = option(8, "prompts of a culture in a step, over all workers")
    learning_rate: float | None = option(None, f"default: {AdapterConfig.learning_rate}, with full {WHOLE_RATE}")
    rank: int = option(16, "of an adapter's matrices")
    alpha: int | None = option(None, "an adapter's strength, times its rank; default: twice the rank")
    layers: int | None = option(
        None,
        "adapt at most so many, the topmost, those below being computed once; 99 for all; of adapters trained here",
    )
    max_tokens: int = option(1024, "of a training row; a longer answer is left out, and counted")
    dtype: str = option("auto", "float32, bfloat16, or auto: what the device is faster with, of 16-bit weights")
    validation: float = option(0.0, "share of the training questions that is kept to choose the best weights by")
    validate_every: int | None = option(None, "steps; default: those of a pass")
    patience: int | None = option(None, "stop a culture after so many validations without a smaller loss")
    workers: int = option(2, "of training and evaluation, a core each")
    gpus: int = option(0, "that train, a worker each, in the place of cores; evaluation takes what there is")
    micro_tokens: int | None = option(
        None, "that a worker computes at once; fewer take less memory; default: 512, on a GPU 4096"
    )
    packing: str = option("yes", "rows in a line that they share, none seeing another; no: each in its own")
    gradient_checkpointing: str = option("no", "yes: layers are computed twice, a third more time for less memory")
    zero_stage: int | None = option(None, "DeepSpeed's ZeRO, 0 to 3; default: the least that fits")
    offload: str | None = option(None, "to the host: none, optimizer, or all (the weights too); default: what must be")
    deepspeed: str | None = option(None, "JSON file of DeepSpeed settings that go over those that are chosen")
    checkpoint_every: int = option(20, "steps")
    trainer: str = option("local", "local, or openai (hosted fine-tuning, its key in OPENAI_API_KEY)")
    trainer_model: str = option(HostedConfig.model, "the base at the hosted trainer")
    trainer_url: str = option(HostedConfig.url, "of the hosted trainer, up to /v1")

    def __post_init__(self) -> None:
        for name, choices in (
            ("training", ("joint", "separate")), ("unified", ("yes", "no")), ("tuning", METHODS),
            ("objective", OBJECTIVES), ("packing", ("yes", "no")), ("gradient_checkpointing", ("yes", "no")),
            ("trainer", ("local", "openai")),
        ):  # fmt: skip
            check_choice(name.replace("_", "-"), getattr(self, name), *choices)
        check_least("workers", self.workers, 1)
        check_least("gpus", self.gpus, 0)
        if self.trainer == "openai":
            self._refuse({f.name for f in fields(self)} - _HOSTED, "the hosted trainer chooses that itself")
        else:
            self._refuse({"trainer_model", "trainer_url"}, "needs --trainer openai")
        if self.tuning == "full":
            self._refuse({"rank", "alpha"}, "full has no adapters")
            if self.dtype == "bfloat16" and self.zero_stage == 0:
                raise ConfigError("zero-stage: all weights of a bfloat16 base need 1 at least, got 0; give that")

    def _refuse(self, names: set[str], why: str) -> None:
        """What has no effect must not be asked for, or it would be thought done."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in names and value != f.default:
                raise ConfigError(f"{f.name.replace('_', '-')}: {why}, got {value!r}; leave it out")

    @property
    def placement(self) -> Placement:
        """Where it runs.

        Raises:
            ConfigError: an option breaks its rule, or the DeepSpeed file cannot be used.
        """
        placement = Placement(
            self.gpus or self.workers,
            use_gpu=self.gpus > 0,
            zero_stage=self.zero_stage,
            offload=self.offload,
            micro_tokens=self.micro_tokens,
            packing=self.packing == "yes",
            gradient_checkpointing=self.gradient_checkpointing == "yes",
            checkpoint_every=self.checkpoint_every,
        )
        if self.deepspeed is None:
            return placement
        from cp_ray.training.deepspeed_file import as_asked, read_settings

        return as_asked(replace(placement, deepspeed=read_settings(self.deepspeed)))

    def runs(self, options: Options, survey: Source) -> list[TrainConfig]:
        """The trainings of all adapters, or whole models.

        Args:
            options: give the base model, the cultures and the seed of all draws.
            survey: where the answers come from.

        Raises:
            ConfigError: an option breaks its rule.
        """
        whole, chosen = self.tuning == "full", options.chosen
        rate = self.learning_rate if self.learning_rate is not None else WHOLE_RATE if whole else None

        def adapter(name: str, *cultures: Culture, batch_size: int) -> AdapterConfig:
            made = AdapterConfig(name, cultures, passes=self.passes, batch_size=batch_size, patience=self.patience)
            return made if rate is None else replace(made, learning_rate=rate)

        adapters = [adapter(culture.id, culture, batch_size=self.batch_size) for culture in chosen]
        if self.unified == "yes":
            adapters.append(adapter(UNIFIED, *chosen, batch_size=self.batch_size * len(chosen)))
        apart = whole or self.training == "separate"
        return [
            TrainConfig(
                options.base_model,
                run,
                survey,
                method=self.tuning,
                dtype=self.dtype,
                rank=self.rank,
                alpha=2 * self.rank if self.alpha is None else self.alpha,
                layers=None if whole else self.layers,
                objective=self.objective,
                max_tokens=self.max_tokens,
                validation=self.validation,
                validate_every=self.validate_every,
                seed=options.seed,
            )
            for run in ([(one,) for one in adapters] if apart else [tuple(adapters)])
        ]
