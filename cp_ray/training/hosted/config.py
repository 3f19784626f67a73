"""What a hosted training is, and how patiently it is watched."""

from dataclasses import dataclass
from typing import Literal

from cp_ray.errors import ConfigError

__all__ = ["HostedConfig", "HostedPoint", "Patience"]

Auto = Literal["auto"]

_MOST_SEED = 2_147_483_647
_LONGEST_SUFFIX = 64


@dataclass(frozen=True)
class HostedConfig:
    """All that changes the model. Ranges are those of OpenAI's API reference; `auto` leaves a value to the provider."""

    culture: str
    """Whose rows: a culture's id, or `all` for the unified model."""
    model: str = "gpt-4o-mini-2024-07-18"
    """The base, by its name at the provider's."""
    url: str = "https://api.openai.com/v1"
    """Whose interface it is, up to and including `/v1`."""
    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    """Chats per optimiser step."""
    learning_rate_multiplier: float | Auto = "auto"
    """Times the provider's own rate."""
    seed: int = 0
    """Of the provider's training, and of the order of the rows."""
    suffix: str | None = None
    """Part of the model's name; None for the culture's id."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url: must begin with http:// or https://, got {self.url!r}")
        for name, most in (("n_epochs", 50), ("batch_size", 256)):
            value = getattr(self, name)
            if value != "auto" and not (isinstance(value, int) and 1 <= value <= most):
                raise ConfigError(f"{name}: must be auto or from 1 to {most}, got {value!r}")
        rate = self.learning_rate_multiplier
        if rate != "auto" and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
            raise ConfigError(f"learning_rate_multiplier: must be auto or above 0, got {rate!r}")
        if not 0 <= self.seed <= _MOST_SEED:
            raise ConfigError(f"seed: must be from 0 to {_MOST_SEED}, got {self.seed}")
        if not 1 <= len(self.ending) <= _LONGEST_SUFFIX:
            raise ConfigError(f"suffix: must have 1 to {_LONGEST_SUFFIX} characters, got {self.ending!r}")

    @property
    def ending(self) -> str:
        """What the model's name is to end with."""
        return self.culture if self.suffix is None else self.suffix


@dataclass(frozen=True, slots=True)
class HostedPoint:
    """One step of a hosted training, as far as the provider tells of it."""

    culture: str
    step: int
    loss: float
    """On the step's batch, in nats a token."""
    accuracy: float | None = None
    """Share of the batch's tokens that were the likeliest."""
    valid_loss: float | None = None
    """On a batch of the validation file."""
    valid_accuracy: float | None = None


@dataclass(frozen=True)
class Patience:
    """How long to go on where the provider does not answer, or not yet. Changes nothing that is made."""

    poll_s: float = 5.0
    """Between looks at a job that tells something new; up to twelve times as long while it does not."""
    attempts: int = 6
    """Of a call at the start, where an address or a key may be wrong."""
    attempts_watching: int = 30
    """Of a call while the job goes on; with the waits between them, some four minutes."""
    settle_s: float = 30.0
    """How long the provider may take to list a job that was created."""
