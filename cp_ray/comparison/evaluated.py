"""What a run's evaluations left in its folder."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cp_ray.cultures import restored
from cp_ray.errors import RunFolderError
from cp_ray.evals.survey import survey_items
from cp_ray.folder import Folder, Manifest
from cp_ray.pipeline import Run
from cp_ray.records import Item, Message, QuestionScore, Seed

__all__ = ["Evaluated", "Put", "evaluated", "manifest_of"]

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Put:
    """How a question of the survey was put, and what the people answer to it."""

    question: str
    options: tuple[str, ...]
    distribution: tuple[float, ...]
    chats: tuple[tuple[Message, ...], ...]
    """With all models: in each order of the options and each wording."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A run's steps."""

    root: Folder
    steps: Mapping[str, Folder]
    """The last command's, or else those that were finished last, by name."""

    def questions(self) -> list[QuestionScore]:
        """Of `cp-ray evaluate`, or of the recipe that trained; none where a run is of before there were any."""
        scores = self._survey()
        return (scores / "questions").read(QuestionScore) if scores is not None else []

    def put(self) -> dict[tuple[str, str], Put]:
        """How each of these was put, by culture and question."""
        scores = self._survey()
        if scores is None:
            return {}
        made = {name: self.root / f"{name}-{of}" for name, of in manifest_of(scores).inputs.items()}
        seeds = next((folder.read(Seed) for name, folder in made.items() if name in ("survey_seeds", "seeds")), [])
        chats = defaultdict(list)
        for item in self._survey_items(made, seeds):
            chats[item.culture, item.source].append(item.messages)
        return {
            (s.culture, s.question_id): Put(
                s.question, s.options, s.distribution, tuple(chats[s.culture, s.question_id])
            )
            for s in seeds
        }

    def rows(self, scores: str, name: str, row: type[Row]) -> list[Row]:
        """Those of the step `name`, all of its parts, that the step `scores` was made from."""
        folders = [folder for one, folder in sorted(self.sources(scores).items()) if one.split(".")[0] == name]
        return [one for folder in folders for one in folder.read(row)]

    def _survey(self) -> Folder | None:
        """The step that scored the survey."""
        there = (self.steps[name] for name in ("survey_scores", "evaluate") if name in self.steps)
        return next((folder for folder in there if (folder / "questions").exists()), None)

    def _survey_items(self, made: Mapping[str, Folder], seeds: list[Seed]) -> list[Item]:
        """A recipe's step `predict` keeps none, so that they are made again."""
        if "predict" not in made:
            return self.rows("survey_scores", "survey_items", Item)
        config = manifest_of(made["predict"]).config
        return survey_items(seeds, [restored(one) for one in config["cultures"]], config.get("wordings", 1))

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
    run = Run(root, "runs")
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
