"""What a run's evaluations left in its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cp_ray.errors import RunFolderError
from cp_ray.folder import Folder, Manifest
from cp_ray.pipeline import Run
from cp_ray.records import QuestionScore

__all__ = ["Evaluated", "evaluated", "manifest_of"]

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A run's steps."""

    root: Folder
    steps: Mapping[str, Folder]
    """The last command's, or else those that were finished last, by name."""

    def questions(self) -> list[QuestionScore]:
        """Of `cp-ray evaluate`, or of the recipe that trained; none where a run is of before there were any."""
        for name in ("survey_scores", "evaluate"):
            if name in self.steps and (self.steps[name] / "questions").exists():
                return (self.steps[name] / "questions").read(QuestionScore)
        return []

    def rows(self, scores: str, name: str, row: type[Row]) -> list[Row]:
        """Those of the step `name`, all of its parts, that the step `scores` was made from."""
        folders = [folder for one, folder in sorted(self.sources(scores).items()) if one.split(".")[0] == name]
        return [one for folder in folders for one in folder.read(row)]

    def sources(self, scores: str) -> dict[str, Folder]:
        """All that a step was made from, by name; a run's folder can hold others of the same names."""
        found: dict[str, Folder] = {}
        todo = [manifest_of(self.steps[scores])]
        while todo:
            for name, fingerprint in todo.pop().inputs.items():
                if name not in found:
                    found[name] = self.root / f"{name}-{fingerprint}"
                    todo.append(manifest_of(found[name]))
        return found


def evaluated(root: str) -> Evaluated:
    """The run's folder, opened.

    Raises:
        ConfigError, RunFolderError: it is none.
    """
    run = Run(root)
    return Evaluated(run.root, {m.name: folder for folder in run.done() if (m := folder.manifest()) is not None})


def manifest_of(folder: Folder) -> Manifest:
    """Of a step that is done.

    Raises:
        RunFolderError: it is not.
    """
    found = folder.manifest()
    if found is None:
        raise RunFolderError(f"runs: {folder.uri} is gone, of which scores were made; evaluate that run again")
    return found
