"""The models that a run has trained, found in its folder."""

from dataclasses import dataclass

from cp_ray.cultures import Culture, restored
from cp_ray.errors import ConfigError
from cp_ray.folder import Folder
from cp_ray.pipeline import Run

__all__ = ["Trained", "trained_models"]


@dataclass(frozen=True)
class Trained:
    """A base and the adapters on it."""

    base_model: str
    adapters: dict[str, Folder]
    made: dict[str, str]
    """Of each adapter, the fingerprint of the training that made it."""
    cultures: dict[str, Culture]
    """Whose questions they were trained on, by id."""
    seeds: Folder
    """The questions, as the training knew them: which are held out is decided there."""
    asked: str
    """The fingerprint of these."""


def trained_models(root: str) -> Trained:
    """The adapters of the run's last finished trainings.

    Raises:
        ConfigError: there is none, they are on different bases, or they are whole models.
    """
    adapters: dict[str, Folder] = {}
    made: dict[str, str] = {}
    bases: dict[str, str] = {}
    seeds: dict[str, Folder] = {}
    run = Run(root)
    for folder in run.done():
        manifest = folder.manifest()
        if manifest is None or manifest.name.split(".")[0] != "train":
            continue
        if manifest.config["method"] == "full":
            raise ConfigError(
                f"run: {root!r} has whole models, which its own step predict scores; give one of adapters"
            )
        for adapter in manifest.config["adapters"]:
            name = adapter["name"]
            adapters[name], made[name] = folder / "adapters" / name, manifest.fingerprint
            bases[name] = str(manifest.config["base_model"])
        examples = (run.root / f"examples-{manifest.inputs['examples']}").manifest()
        asked = examples.inputs["seeds"] if examples else ""
        seeds[asked] = run.root / f"seeds-{asked}"
    if not adapters:
        raise ConfigError(f"run: {root!r} has no trained adapter; run a recipe up to its step train first")
    if len(set(bases.values())) > 1:
        told = ", ".join(f"{name} on {base}" for name, base in bases.items())
        raise ConfigError(f"run: {root!r} has adapters on different bases ({told}); evaluate them in runs of their own")
    if len(seeds) > 1:
        raise ConfigError(f"run: {root!r} has trainings on different questions; evaluate them in runs of their own")
    ((asked, folder),) = seeds.items()
    manifest = folder.manifest()
    if manifest is None:
        raise ConfigError(f"run: {root!r} lacks the rows of the step seeds that it was trained on; do them again")
    cultures = {culture.id: culture for culture in map(restored, manifest.config["cultures"])}
    return Trained(next(iter(bases.values())), adapters, made, cultures, folder, asked)
