"""The models that a run has trained, found in its folder."""

from dataclasses import dataclass

from cp_ray.cultures import Culture, restored
from cp_ray.errors import ConfigError
from cp_ray.folder import Folder
from cp_ray.llm.contents import check_contents
from cp_ray.pipeline import Run

__all__ = ["Trained", "trained_models"]


@dataclass(frozen=True)
class Trained:
    """A base and the adapters on it, or whole models that began as it."""

    base_model: str
    folders: dict[str, Folder]
    """Of the adapters or models, by name."""
    made: dict[str, str]
    """Of each, the fingerprint of the training that made it."""
    whole: bool
    """They are models with all weights."""
    cultures: dict[str, Culture]
    """Whose questions they were trained on, by id."""
    seeds: Folder
    """The questions, as the training knew them: which are held out is decided there."""
    asked: str
    """The fingerprint of these."""


def trained_models(root: str) -> Trained:
    """The adapters, or whole models, of the run's last trainings.

    Raises:
        ConfigError: there is none, they are of both kinds, on different bases or questions, or on a base that has
            become another since.
    """
    folders: dict[str, Folder] = {}
    kinds: dict[str, str] = {}
    made: dict[str, str] = {}
    bases: dict[str, str] = {}
    seeds: dict[str, Folder] = {}
    run = Run(root)
    for folder in run.last("train"):
        manifest = folder.manifest()
        assert manifest is not None
        check_contents(manifest.config["base_model"], manifest.config.get("base_contents"))
        kind = "models" if manifest.config["method"] == "full" else "adapters"
        for adapter in manifest.config["adapters"]:
            name = adapter["name"]
            folders[name], made[name], kinds[name] = folder / kind / name, manifest.fingerprint, kind
            bases[name] = str(manifest.config["base_model"])
        examples = (run.root / f"examples-{manifest.inputs['examples']}").manifest()
        asked = examples.inputs["seeds"] if examples else ""
        seeds[asked] = run.root / f"seeds-{asked}"
    if not folders:
        raise ConfigError(f"run: {root!r} has no trained adapter; run a recipe up to its step train first")
    if len(set(bases.values())) > 1:
        told = ", ".join(f"{name} on {base}" for name, base in bases.items())
        raise ConfigError(f"run: {root!r} has adapters on different bases ({told}); evaluate them in runs of their own")
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
        raise ConfigError(f"run: {root!r} has adapters and whole models ({told}); evaluate them in runs of their own")
    if len(seeds) > 1:
        raise ConfigError(f"run: {root!r} has trainings on different questions; evaluate them in runs of their own")
    ((asked, folder),) = seeds.items()
    manifest = folder.manifest()
    if manifest is None:
        raise ConfigError(f"run: {root!r} lacks the rows of the step seeds that it was trained on; do them again")
    cultures = {culture.id: culture for culture in map(restored, manifest.config["cultures"])}
    whole = "models" in kinds.values()
    return Trained(next(iter(bases.values())), folders, made, whole, cultures, folder, asked)
