"""Versions of a model's adapter: one answers, another may get a share of the traffic, and be promoted or rolled back.

A choice reads one immutable object, and a change replaces it whole: no request sees half a change. The engine keeps
versions under names of their own, so an answer is from the version that was chosen, whatever changes meanwhile.

The file says which versions answer of the models that were changed, and what they were configured with then. A model
that is configured with another adapter now, after a new training, begins with that: whoever changes the configuration
means it, and what answered before is what a roll-back returns to.
"""

import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import BadRequest, ModelSpec

__all__ = ["Release", "Traffic", "Versions"]

_log = logging.getLogger("cp_ray.serving")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Release:
    """A version of a model."""

    version: str
    name: str
    """What the engine knows it by."""
    adapter: str | None
    """Where its adapter lies; None is the bare base."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which versions of a model answer."""

    stable: Release
    previous: Release | None = None
    """What a roll-back returns to."""
    canary: Release | None = None
    share: float = 0.0
    """Of the requests that the canary answers."""

    def choose(self, draw: float) -> Release:
        """The version for a request; `draw`: a number in [0, 1) of its own."""
        return self.canary if self.canary is not None and draw < self.share else self.stable


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the file says of a model."""

    configured: str | None
    """The adapter that it was configured with; None: the bare base."""
    traffic: Traffic


class Versions:
    """The versions of all models, kept in a file if there is one. For one event loop."""

    def __init__(self, models: Sequence[ModelSpec], file: Path | None = None) -> None:
        """Begin with what is configured, or with what the file says of it.

        Raises:
            ConfigError: the file is damaged.
        """
        self._file = file
        self._kept = _read(file) if file is not None and file.exists() else {}
        self._configured = {model.id: model.adapter for model in models}
        self._traffic = {model.id: _begin(model, self._kept.get(model.id)) for model in models}

    @property
    def adapters(self) -> set[str | None]:
        """Where the adapters of all versions lie that answer or may."""
        known = [r for t in self._traffic.values() for r in (t.stable, t.previous, t.canary) if r is not None]
        return {release.adapter for release in known}

    def of(self, model: str) -> Traffic:
        """Which versions of a model answer now."""
        return self._traffic[model]

    def offer(self, model: str, release: Release, share: float) -> None:
        """Give a candidate, which has been checked, a share of the traffic.

        Raises:
            BadRequest: the version is known already, or another one is on trial.
        """
        traffic = self._traffic[model]
        self._check_free(model, release.version)
        if traffic.canary is not None:
            raise BadRequest(f"version: {traffic.canary.version!r} is on trial; promote it or roll it back first")
        self._set(model, replace(traffic, canary=release, share=_share(share)))

    def candidate(self, model: str, version: str, adapter: str) -> Release:
        """A version as it would be, under a name that the engine has never heard.

        Raises:
            BadRequest: its name is not one, or is taken.
        """
        self._check_free(model, version)
        return Release(version, f"{model}@{version}-{uuid.uuid4().hex[:8]}", adapter)

    def _check_free(self, model: str, version: str) -> None:
        traffic = self._traffic[model]
        if not _NAME.fullmatch(version):
            raise BadRequest("version: must be of letters, digits, '.', '_' and '-', 64 at most")
        if version in {r.version for r in (traffic.stable, traffic.previous, traffic.canary) if r is not None}:
            raise BadRequest(f"version: {version!r} of {model!r} is there already; give the new one another name")

    def share(self, model: str, share: float) -> None:
        """Give the version on trial another share.

        Raises:
            BadRequest: none is on trial.
        """
        self._trial(model)
        self._set(model, replace(self._traffic[model], share=_share(share)))

    def promote(self, model: str) -> Release | None:
        """The version on trial answers everything from now on: the one that no roll-back returns to any more.

        Raises:
            BadRequest: none is on trial.
        """
        before = self._traffic[model]
        self._set(model, Traffic(self._trial(model), previous=before.stable))
        return before.previous

    def before(self, model: str) -> Release | None:
        """The version that a roll-back would bring back; None: it would only end a trial, or there is none."""
        traffic = self._traffic[model]
        return traffic.previous if traffic.canary is None else None

    def roll_back(self, model: str) -> Release:
        """The version on trial answers nothing from now on; without one, the version before the stable one is back.

        Returns:
            The version that is gone.

        Raises:
            BadRequest: there is neither.
        """
        traffic = self._traffic[model]
        if traffic.canary is not None:
            self._set(model, replace(traffic, canary=None, share=0.0))
            return traffic.canary
        if traffic.previous is None:
            raise BadRequest(f"version: {model!r} has no other version to go back to")
        self._set(model, Traffic(traffic.previous))
        return traffic.stable

    def _trial(self, model: str) -> Release:
        canary = self._traffic[model].canary
        if canary is None:
            raise BadRequest(f"version: none of {model!r} is on trial; offer one first")
        return canary

    def _set(self, model: str, traffic: Traffic) -> None:
        kept = {**self._kept, model: _Kept(self._configured[model], traffic)}
        if self._file is not None:
            _write(self._file, kept)  # before it is so: what is answered is never ahead of what is kept
        self._kept, self._traffic = kept, {**self._traffic, model: traffic}


def _begin(model: ModelSpec, kept: _Kept | None) -> Traffic:
    """Which versions of a model answer at the start."""
    first = Release("1", model.engine_name, model.adapter)
    if kept is None:
        return Traffic(first)
    before = kept.traffic.stable
    if model.adapter in (kept.configured, before.adapter):  # the latter: a promoted version has been configured
        return kept.traffic
    _log.warning("versions: %s answers with %s, as configured; before: %s", model.id, model.adapter, before.adapter)
    return Traffic(replace(first, version="2" if before.version == "1" else "1"), before if before.adapter else None)


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise BadRequest(f"share: must be between 0 and 1, got {share}")
    return share


def _write(file: Path, kept: dict[str, _Kept]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, delete=False, encoding="utf-8") as new:
        json.dump({id: {"configured": k.configured, **asdict(k.traffic)} for id, k in kept.items()}, new, indent=1)
    os.replace(new.name, file)


def _read(file: Path) -> dict[str, _Kept]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {id: _Kept(fields["configured"], _traffic(fields)) for id, fields in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"versions: {file} cannot be read ({type(error).__name__}: {error}); mend it, or remove it to begin anew"
        ) from error


def _traffic(fields: dict[str, Any]) -> Traffic:
    stable, previous, canary = Release(**fields["stable"]), _release(fields["previous"]), _release(fields["canary"])
    share = fields["share"]
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share!r}")
    return Traffic(stable, previous, canary, share)


def _release(fields: dict[str, str] | None) -> Release | None:
    return None if fields is None else Release(**fields)
