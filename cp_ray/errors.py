"""What can go wrong, as one tree.

    CpRayError                   everything this package raises on purpose
    ├── ConfigError              an option or a field breaks its rule
    ├── SurveyError              a survey file cannot be read as one
    ├── RunFolderError           a run folder is of another version or is damaged
    ├── TeacherError             the model behind the door cannot be used at all
    │   ├── TeacherUnreachable   nothing answers at its address, or nothing but errors
    │   ├── TeacherDenied        it refuses the key
    │   ├── TeacherUnknownModel  it does not know the model
    │   └── TooManyFailures      too large a share of the calls came to no answer
    ├── TrainerError             hosted fine-tuning cannot be used, or its job came to nothing
    ├── BudgetReached            the next call could pass the run's budget
    ├── BaseModelError           a base model or its weights cannot be loaded
    └── PlacementError           a stage needs more than the cluster has

Each message is one line: the field, its rule, what it got, what to do. The command line prints it and
exits with status 2. What a model may get wrong (an answer that cannot be parsed, a refusal) is not an
exception: it is a row with a reason.

No class takes arguments of its own, so that every error survives pickling on its way from a Ray worker.
"""

import re

__all__ = [
    "BaseModelError",
    "BudgetReached",
    "ConfigError",
    "CpRayError",
    "PlacementError",
    "RunFolderError",
    "SurveyError",
    "TeacherDenied",
    "TeacherError",
    "TeacherUnknownModel",
    "TeacherUnreachable",
    "TooManyFailures",
    "TrainerError",
    "told_in",
]


class CpRayError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(CpRayError, ValueError):
    """An option or a field breaks its rule."""


class SurveyError(CpRayError, ValueError):
    """A survey file cannot be read as one."""


class RunFolderError(CpRayError):
    """A run folder is of another version or is damaged."""


class TeacherError(CpRayError):
    """The model behind the door cannot be used at all."""


class TeacherUnreachable(TeacherError):
    """Nothing answers at the teacher's address, or nothing but errors that may pass."""


class TeacherDenied(TeacherError):
    """The teacher refuses the key."""


class TeacherUnknownModel(TeacherError):
    """The teacher does not know the model."""


class TooManyFailures(TeacherError):
    """Too large a share of the calls came to no answer."""


class TrainerError(CpRayError):
    """Hosted fine-tuning cannot be used, or its job came to nothing."""


class BudgetReached(CpRayError):
    """The next call could pass the run's budget."""


class BaseModelError(CpRayError):
    """A base model or its weights cannot be loaded."""


class PlacementError(CpRayError):
    """A stage needs more than the cluster has."""


def told_in(text: str) -> CpRayError | None:
    """The last error of ours that a traceback tells of; Ray hands on some errors as text only."""
    found = re.findall(r"^cp_ray\.errors\.(\w+): (.+)$", text, flags=re.MULTILINE)
    if not found:
        return None
    name, message = found[-1]
    kind: type[CpRayError] = globals()[name]
    return kind(message.strip())
