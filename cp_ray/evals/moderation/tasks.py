"""The tasks, from `tasks.csv`: a line each.

| column | what it is |
|---|---|
| culture, task | as CultureLLM calls the task; two Greek sets are an extension of its 59 |
| file | below its folder `data`, without `.jsonl` |
| short | the same set's place in a folder by culture, where it has one |
| text | the field with the text; the label is always in `label` |
| family | what is asked, `families.FAMILIES` |
| labels | as they stand in the file, in the order of the family's options |
| defect | what is known to be wrong with it |
| left_out | why it is in no average; sets with empty labels or one class are found when they are read |
"""

import csv
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cp_ray.errors import ConfigError
from cp_ray.evals.moderation.families import FAMILIES, Family

__all__ = ["LABEL", "TASKS", "Task", "find_tasks"]

LABEL = "label"
"""The field with the label, in every set."""


@dataclass(frozen=True, slots=True)
class Task:
    """One test set."""

    culture: str
    name: str
    file: str
    short: str
    text: str
    family: str
    labels: tuple[str, ...]
    defect: str
    left_out: str

    @property
    def id(self) -> str:
        """`culture/task`."""
        return f"{self.culture}/{self.name}"

    @property
    def asks(self) -> Family:
        """What is asked about each text."""
        return FAMILIES[self.family]


def _read() -> tuple[Task, ...]:
    text = resources.files("cp_ray.evals.moderation").joinpath("tasks.csv").read_text(encoding="utf-8")
    return tuple(
        Task(
            line["culture"], line["task"], line["file"], line["short"], line["text"], line["family"],
            tuple(line["labels"].split("|")), line["defect"], line["left_out"],
        )
        for line in csv.DictReader(text.splitlines())
    )  # fmt: skip


TASKS = _read()


def find_tasks(root: Path) -> list[tuple[Task, Path]]:
    """The tasks that have a file in a folder: CultureLLM's repository, its `data`, or folders by culture.

    Raises:
        ConfigError: there is no such folder, or none of the files is in it.
    """
    if not root.is_dir():
        raise ConfigError(f"moderation: there is no folder {str(root)!r}; give one that is laid out as CultureLLM's")
    found = []
    for task in TASKS:
        places = [root / "data" / f"{task.file}.jsonl", root / f"{task.file}.jsonl"]
        if task.short:
            places.append(root / f"{task.short}.jsonl")
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found.append((task, path))
    if not found:
        raise ConfigError(
            f"moderation: {str(root)!r} has none of the {len(TASKS)} sets, such as data/{TASKS[0].file}.jsonl; "
            "give CultureLLM's repository or a folder that is laid out like it"
        )
    return found
