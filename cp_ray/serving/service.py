"""All that the API's routes share."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cp_ray.cultures import Culture
from cp_ray.serving.call import Call, RequestLog
from cp_ray.serving.chat import Backend, ModelCard, ModelSpec
from cp_ray.serving.keys import Key, Keys
from cp_ray.serving.limits import Gate
from cp_ray.serving.metrics import Metrics
from cp_ray.serving.origins import Origin
from cp_ray.serving.routing import Asked, Identify, Router, check_keys
from cp_ray.serving.versions import Release, Versions

__all__ = ["Service"]


@dataclass
class Service:
    """What answers, and by which rules."""

    backend: Backend
    base: str
    """As clients are told."""
    models: Sequence[ModelSpec]
    cultures: Sequence[Culture] = ()
    """Of the models, for moderation and education."""
    keys: Keys = field(default_factory=lambda: Keys(()))
    gate: Gate = field(default_factory=lambda: Gate(256))
    identify: Identify | None = None
    versions: Versions | None = None
    log: RequestLog = field(default_factory=lambda: RequestLog("", prompts=False))
    timeout_s: float = 600.0
    answer_tokens: int = 256
    """Of a chat's answer where none are asked for."""
    max_answer_tokens: int = 4_096
    """That may be asked for."""
    adapters: Path | None = None
    """Where new versions of adapters are found."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Of adapters, by their folder or URI."""
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    """Whether no more requests are taken."""
    _routers: dict[str, Router] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._versions = self.versions or Versions(self.models)
        self.cards = [model.card(self.base) for model in self.models]
        check_keys(self.keys, self.cards)

    @property
    def traffic(self) -> Versions:
        """The versions of the models."""
        return self._versions

    def router(self, key: Key | None) -> Router:
        """Chooses among the models that a key may ask; of others its holder learns nothing."""
        name = key.name if key is not None else ""
        if name not in self._routers:
            allowed = [card for card in self.cards if key is None or key.allows(card.id)]
            self._routers[name] = Router(allowed, self.identify)
        return self._routers[name]

    def choose(self, call: Call, asked: Asked) -> tuple[ModelCard, Release]:
        """The model that answers a request, and its version.

        Raises:
            UnknownModel: as in `Router.route`.
        """
        routed = self.router(call.key).route(asked)
        release = self.release(routed.card)
        call.model, call.version, call.why = routed.card.id, release.version, routed.why
        return routed.card, release

    def release(self, card: ModelCard) -> Release:
        """The version of a model that answers the next request."""
        return self._versions.of(card.id).choose(random.random())
