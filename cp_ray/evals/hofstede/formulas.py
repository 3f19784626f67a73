"""The formulas of the VSM 2013 and the published scores that they are held against.

    PDI = 35 (m07 - m02) + 25 (m20 - m23) + C     IDV = 35 (m04 - m01) + 35 (m09 - m06) + C
    MAS = 35 (m05 - m03) + 35 (m08 - m10) + C     UAI = 40 (m18 - m15) + 25 (m21 - m24) + C
    LTO = 40 (m13 - m14) + 25 (m19 - m22) + C     IVR = 35 (m12 - m11) + 40 (m17 - m16) + C

mNN is a group's mean answer to item NN. The constants are free: the manual lets them be chosen, so that only
differences between cultures mean anything. Here a culture's constant is fitted on the other cultures.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cp_ray.errors import ConfigError

__all__ = ["DIMENSIONS", "ITEMS", "Published", "indices", "read_published"]

DIMENSIONS = ("pdi", "idv", "mas", "uai", "lto", "ivr")

ITEMS = range(1, 25)

_TERMS = {
    "pdi": ((35, 7, 2), (25, 20, 23)),
    "idv": ((35, 4, 1), (35, 9, 6)),
    "mas": ((35, 5, 3), (35, 8, 10)),
    "uai": ((40, 18, 15), (25, 21, 24)),
    "lto": ((40, 13, 14), (25, 19, 22)),
    "ivr": ((35, 12, 11), (40, 17, 16)),
}
"""(coefficient, item, item that is subtracted)"""

_COLUMNS = ("pdi", "idv", "mas", "uai", "ltowvs", "ivr")
_NONE = "#NULL!"


@dataclass(frozen=True, slots=True)
class Published:
    """A country's or a region's published scores."""

    code: str
    name: str
    scores: Mapping[str, float]
    """By dimension; those that it has."""


def indices(answers: ArrayLike) -> NDArray[np.float64]:
    """The dimensions [..., 6], without constants, of answers [..., 24] from 1 to 5; NaN where one is missing."""
    given = np.asarray(answers, dtype=np.float64)
    weights = np.zeros((len(ITEMS), len(DIMENSIONS)))
    for column, name in enumerate(DIMENSIONS):
        for coefficient, item, less in _TERMS[name]:
            weights[item - 1, column] += coefficient
            weights[less - 1, column] -= coefficient
    missing = np.isnan(given).astype(np.float64) @ (weights != 0)
    found: NDArray[np.float64] = np.where(missing > 0, np.nan, np.nan_to_num(given) @ weights)
    return found


def read_published(path: Path) -> dict[str, Published]:
    """All rows of the file of published scores, by name: countries and regions, with `#NULL!` for what is not known.

    Raises:
        ConfigError: it cannot be read, or a line is not of its form.
    """
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter=";"))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"hofstede: {path} cannot be read ({error}); give the file of published scores") from error
    rows: dict[str, Published] = {}
    for number, line in enumerate(lines, 2):
        try:
            told = {d: line[column].strip() for d, column in zip(DIMENSIONS, _COLUMNS, strict=True)}
            scores = {d: float(value) for d, value in told.items() if value != _NONE}
            if not all(map(math.isfinite, scores.values())):
                raise ValueError("a score is not finite")
            code, name = line["ctr"].strip(), line["country"].strip()
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"hofstede: {path} line {number} must have ctr;country;{';'.join(_COLUMNS)} with numbers or {_NONE}, "
                f"got {list(line.values())}"
            ) from error
        if name in rows:
            raise ConfigError(f"hofstede: {path} line {number} has {name!r} a second time; give each once")
        rows[name] = Published(code, name, scores)
    if not rows:
        raise ConfigError(f"hofstede: {path} has no row below its header")
    return rows
