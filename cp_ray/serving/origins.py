"""Where an adapter comes from: the training of a run folder that made it, the survey that was asked, and its scores."""

import logging
import math
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from cp_ray.arrow import from_table
from cp_ray.errors import RunFolderError
from cp_ray.folder import Folder, Manifest, open_folder
from cp_ray.pipeline import Run
from cp_ray.records import Score, Seed
from cp_ray.survey.items import Source

__all__ = ["Origin", "origins"]

_HELD_OUT = "survey_heldout"
_log = logging.getLogger("cp_ray.serving")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run folder says of an adapter."""

    training_run: str
    """Names of the run's folder and of the training's in it."""
    scores: tuple[Score, ...] = ()
    """Of the run's last evaluation of this training, on held-out questions."""
    survey: Source | None = None
    seeds: tuple[Seed, ...] = ()
    """What the people of the adapter's culture answered in the survey."""

    def card(self) -> dict[str, Any]:
        """As clients are told."""
        return {"training_run": self.training_run, "scores": [_told(score) for score in self.scores]}


def origins(adapters: Iterable[str | None]) -> dict[str, Origin]:
    """The origins of adapters, by their folder or URI; those that lie in no run folder are left out.

    What cannot be read of a run is logged: an adapter is served without it.
    """
    found = {}
    for adapter in adapters:
        try:
            origin = _origin(open_folder(adapter)) if adapter else None
        except (OSError, RunFolderError) as error:
            _log.warning("the run of %s is not told: %s", adapter, error)
            continue
        if adapter and origin:
            found[adapter] = origin
    return found


def _origin(adapter: Folder) -> Origin | None:
    """Of `<run>/train-<fingerprint>/adapters/<name>`."""
    training = Folder(adapter.filesystem, posixpath.dirname(posixpath.dirname(adapter.path)))
    manifest = training.manifest()
    if manifest is None or manifest.name.split(".")[0] != "train":
        return None
    root = Folder(adapter.filesystem, posixpath.dirname(training.path))
    name = f"{posixpath.basename(root.path)}/{posixpath.basename(training.path)}"
    model = posixpath.basename(adapter.path)
    scores = _scores(root, {manifest.name: manifest.fingerprint}, model)
    asked = _asked(root, manifest)
    seeds = asked.manifest() if asked else None
    if asked is None or seeds is None:
        return Origin(name, scores)
    own = from_table(asked.table().filter(pc.field("culture") == model), Seed)
    return Origin(name, scores, Source(**seeds.config["source"]), tuple(own))


def _asked(root: Folder, step: Manifest) -> Folder | None:
    """The seeds that a step's rows were made from, which may be several steps before it."""
    for name, fingerprint in sorted(step.inputs.items(), key=lambda one: one[0] != "seeds"):
        folder = root / f"{name}-{fingerprint}"
        if name == "seeds":
            return folder
        before = folder.manifest()
        found = _asked(root, before) if before is not None else None
        if found is not None:
            return found
    return None


def _scores(root: Folder, training: dict[str, str], model: str) -> tuple[Score, ...]:
    for folder in reversed(Run(root.uri).done()):
        manifest = folder.manifest()
        if manifest is None or manifest.name != "evaluate":
            continue
        asked = (root / f"predict-{manifest.inputs.get('predict')}").manifest()
        if asked is not None and training.items() <= asked.inputs.items():
            return tuple(s for s in folder.read(Score) if s.model == model and s.task == _HELD_OUT)
    return ()


def _told(score: Score) -> dict[str, Any]:
    # An interval over very few questions may have no end, for which JSON has no number.
    low, high = (end if math.isfinite(end) else None for end in (score.low, score.high))
    return {
        "culture": score.culture,
        "task": score.task,
        "metric": score.metric,
        "value": score.value,
        "low": low,
        "high": high,
        "questions": score.n,
    }
