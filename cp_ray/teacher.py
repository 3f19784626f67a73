"""The model that the generating steps talk to: a server of the user's, or the embedded model's own."""

import math
import os
import re
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from cp_ray.errors import ConfigError
from cp_ray.llm.budget import Price
from cp_ray.llm.control import Rules
from cp_ray.llm.door import Batch, Door, Target
from cp_ray.llm.limiter import NO_LIMITS, Limits
from cp_ray.llm.prices import price_of

__all__ = ["Teacher", "Terms", "check_url", "parse_batch", "parse_fallbacks"]


@dataclass(frozen=True)
class Terms:
    """How a teacher is asked. None of this changes what it answers."""

    limits: Limits = NO_LIMITS
    budget: float | None = None
    """USD for the run, over all of its life."""
    price: Price | None = None
    max_failures: float = 0.5
    """Share of calls that may come to no answer before the run stops."""
    fallbacks: tuple[Target, ...] = ()
    """Asked in turn where the teacher comes to no answer."""
    batch: Batch | None = None
    """Whose batch interface is used, if any."""
    in_flight: int = 64
    """Calls under way in each worker."""
    workers: int = 1
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("in_flight", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.max_failures <= 1:
            raise ConfigError(f"max_failures: must be above 0 and at most 1, got {self.max_failures}")
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"timeout: must be a number of seconds above 0, got {self.timeout_s}")


class Teacher:
    """Up while the generating steps run.

    With no `url`, the embedded model is served by this project's own server on Ray Serve and reached over HTTP,
    so that the pipeline has one path whoever the teacher is.
    """

    def __init__(self, url: str | None, model: str, terms: Terms, root: str, *, by_server: bool = False) -> None:
        """Name it; nothing is asked yet.

        Args:
            url: OpenAI-compatible server, up to /v1; None for the embedded model's own.
            model: its name there.
            terms: how it is asked.
            root: the run's folder, where its ledger lies.
            by_server: its answers are kept as this server's alone, for it is they that are evaluated; a run that
                generates may go on with another server of the same model.

        Raises:
            ConfigError: there is a budget, and no price of it or of a fallback.
        """
        if terms.budget is not None:
            for name, price in ((model, terms.price), *((f.model, f.price) for f in terms.fallbacks)):
                if price is None:
                    raise ConfigError(f"budget: no price is known for {name!r}; give one with --prices")
        self.model, self.terms = model, terms
        self._given_url = self._url = url
        self._root, self._by_server = root, by_server
        self._run, self._told = uuid.uuid4().hex, False
        self._control: Any = None
        self._stack = ExitStack()

    @property
    def cpus(self) -> float:
        """What it takes of the cluster while it is up: the embedded model's server is a replica of one CPU."""
        return 1.0 if self._given_url is None else 0.0

    def check(self) -> None:
        """Make sure that a server of the user's can be used.

        Raises:
            TeacherError: nothing answers there, it refuses the key, or does not know the model.
        """
        if self._given_url is not None and self.terms.batch != "anthropic":  # whose list of models is another
            from cp_ray.llm.endpoint import check_teacher

            check_teacher(self._given_url, self.model, os.environ.get("OPENAI_API_KEY"))

    def __enter__(self) -> "Teacher":
        if self._given_url is None:
            from cp_ray.cluster import check_one_machine
            from cp_ray.serving.app import ServeSpec, Settings, application_of, serving
            from cp_ray.serving.chat import ModelSpec

            check_one_machine("teacher-url: the embedded teacher")
            spec = ServeSpec(base=self.model, models=(ModelSpec(id=self.model),))
            # While it answers nothing else computes, so it may use every core of its machine. Its callers bound what
            # is under way themselves, and wait as long as they like.
            settings = Settings(threads=os.cpu_count(), max_under_way=100_000, timeout_s=3600)
            name = application_of("teacher", self._root)
            self._url = self._stack.enter_context(serving(spec, name=name, route_prefix=f"/{name}", settings=settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control = None
        self._stack.close()

    def door(self, step: str) -> Door:
        """The way to it for a step's workers."""
        if self._url is None:
            raise RuntimeError("the teacher is not up; enter it first")
        targets = (self._first(self._url), *self.terms.fallbacks)
        if self._control is None:
            self._control = self._start_control()
        terms = self.terms
        server = self._url if self._by_server else ""
        door = Door(
            targets, self._root, step, terms.in_flight, terms.timeout_s, self._control, terms.limits, self._run, server
        )  # fmt: skip
        self._tell_of_others(door)
        return door

    def check_outcome(self) -> None:
        """After a step: was so little answered that the run should not go on?

        Raises:
            TooManyFailures: yes.
        """
        import ray

        from cp_ray.llm.control import error_of

        verdict = ray.get(self._control.verdict.remote()) if self._control is not None else None
        if verdict is not None:
            raise error_of(*verdict)

    def _first(self, url: str) -> Target:
        batch, price = self.terms.batch, self.terms.price
        if batch is None:
            return Target(url, self.model, price)
        key = "ANTHROPIC_API_KEY" if batch == "anthropic" else "OPENAI_API_KEY"
        return Target(url, self.model, price.half() if price else None, key, batch)

    def _tell_of_others(self, door: Door) -> None:
        """Say once if another run on the cluster says something else about the teacher's limits."""
        given = {"rpm": self.terms.limits.rpm, "tpm": self.terms.limits.tpm}
        for other in door.limiters()[0].others() if not self._told else ():
            for name, own in given.items():
                its = getattr(other, name)
                if its != own and not self._told:
                    self._told = True
                    print(
                        f"{name}: another run on this cluster says {_limit(its)} for {self.model} with the same key, "
                        f"this one {_limit(own)}; while both go on they share the smaller",
                        file=sys.stderr,
                    )

    def _start_control(self) -> Any:
        from cp_ray.llm.control import control
        from cp_ray.llm.ledger import summary

        terms = self.terms
        spent = sum(totals.usd for totals in summary(self._root)) if terms.budget is not None else 0.0
        return control(Rules(terms.budget, spent, terms.max_failures, self._root))


def check_url(option: str, url: str) -> None:
    """Make sure that an address can be one of a server.

    Raises:
        ConfigError: it has another scheme, names no host, or cannot be read as an address at all.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # brackets that do not close, a port that is none
        right = False
    if not right:
        raise ConfigError(
            f"{option}: must begin with http:// or https:// and name a host, got {url!r}; "
            "an address is such as http://localhost:8000/v1"
        )


def parse_fallbacks(text: str, prices: Mapping[str, Price]) -> tuple[Target, ...]:
    """Targets from `model@url`, or `model@url@KEY_VARIABLE`, with commas between.

    Raises:
        ConfigError: one is not of this form.
    """
    return tuple(_fallback(part.strip(), prices) for part in text.split(",") if part.strip())


def parse_batch(text: str | None) -> Batch | None:
    """Whose batch interface.

    Raises:
        ConfigError: it is nobody's that is known.
    """
    if text is None or text in get_args(Batch):
        return cast("Batch | None", text)
    raise ConfigError(f"batch: must be {' or '.join(get_args(Batch))}, got {text!r}")


def _limit(value: int | None) -> str:
    return "no limit" if value is None else f"{value:,} a minute"


def _fallback(text: str, prices: Mapping[str, Price]) -> Target:
    model, _, rest = text.partition("@")
    url, _, variable = rest.partition("@")
    if not model or not url:
        raise ConfigError(f"fallbacks: must be model@url or model@url@KEY_VARIABLE, got {text!r}")
    check_url("fallbacks", url)
    return Target(url, model, price_of(model, prices), variable or "OPENAI_API_KEY")
