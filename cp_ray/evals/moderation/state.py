"""What is to be said of each test set as it was read, and whether its figure may stand in an average."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.evals.moderation.read import EMPTY_LABEL, NO_LABEL
from cp_ray.evals.moderation.tasks import TASKS, Task
from cp_ray.records import Item

__all__ = ["SetState", "set_states"]

_UNLABELLED = 0.05
"""With so large a share of rows without a label, nobody knows what the rest would be."""
_ONE_CLASS = 0.98
"""Above, the few rows of the other classes decide the figure: of 1000, fewer than 20."""


@dataclass(frozen=True, slots=True)
class SetState:
    """One test set."""

    culture: str
    task: str
    rows: int
    """Lines that were read."""
    used: int
    labels: str
    """How many rows each option has: `no 600, yes 400`."""
    unused: str
    """Why lines were not used, and how many: `empty label 218`."""
    repeated: int
    """Rows whose text has been there before."""
    conflicting: int
    """Of these, those with another label than the first."""
    defect: str
    """What is known of it beforehand."""
    left_out: str
    """Why it is in no average; empty if it is in them."""


def set_states(items: Sequence[Item]) -> list[SetState]:
    """The state of each set, in the order of the items."""
    known = {task.id: task for task in TASKS}
    sets: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        sets[item.task].append(item)
    return [_state(known[id], own) for id, own in sets.items()]


def _state(task: Task, items: Sequence[Item]) -> SetState:
    used = [item for item in items if item.reject is None]
    unused = Counter[str](item.reject for item in items if item.reject is not None)
    labels = Counter(dict.fromkeys(task.asks.options, 0) | Counter(item.gold for item in used))
    first: dict[str, str] = {}
    repeated = conflicting = 0
    for item in used:
        content = item.messages[-1].content
        text = content if task.asks.whole else content.partition("\n\n")[2]
        if text in first:
            repeated += 1
            conflicting += first[text] != item.gold
        first.setdefault(text, item.gold)
    reasons = [task.left_out] if task.left_out else []
    reasons += _reasons(len(items), labels, unused)
    return SetState(
        task.culture, task.id, len(items), len(used), _told(labels), _told(unused), repeated, conflicting, task.defect,
        "; ".join(reasons),
    )  # fmt: skip


def _reasons(rows: int, labels: Counter[str], unused: Counter[str]) -> list[str]:
    if not labels.total():
        return ["no row can be used"]
    reasons = []
    without = unused[EMPTY_LABEL] + unused[NO_LABEL]
    if without >= _UNLABELLED * rows:
        reasons.append(f"{without} of {rows} rows have no label")
    ((commonest, most),) = labels.most_common(1)
    if most == labels.total():
        reasons.append(f"single class: each of the {most} rows that were read is {commonest!r}")
    elif most > _ONE_CLASS * labels.total():
        reasons.append(f"nearly a single class: {most} of {labels.total()} rows are {commonest!r}")
    return reasons


def _told(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counted.items())
