"""The chart of a training."""

import itertools
import re
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.arrow import to_table
from cp_ray.evals import charts
from cp_ray.evals.report.rows import curves
from cp_ray.folder import open_folder
from cp_ray.records import TrainPoint


def points(model: str, *validated: float | None) -> list[TrainPoint]:
    return [TrainPoint(model, k + 1, 1.0, 0.1, 10, 1.0, value) for k, value in enumerate(validated)]


@given(wanted=st.lists(st.floats(0, 214), max_size=40))
def test_names_stand_apart_and_on_the_picture(wanted: list[float]) -> None:
    heights = charts._apart(wanted, 13, 236)
    ordered = sorted(heights)
    assert all(b - a >= 13 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert all(
        heights[a] <= heights[b] for a in range(len(wanted)) for b in range(len(wanted)) if wanted[a] < wanted[b]
    )
    assert not wanted or (ordered[0] >= 0 and ordered[-1] <= max(236, 13 * (len(wanted) - 1)) + 1e-9)


def test_validation_is_shown_and_the_weights_that_were_kept(tmp_path: Path) -> None:
    step = open_folder(str(tmp_path))
    log = step / "log" / "rows"
    told = points("german", None, 0.9, None, 0.9, 1.4) + points("greek", None, None)
    log.filesystem.create_dir(log.path, recursive=True)
    pq.write_table(to_table(told, TrainPoint), f"{log.path}/0.parquet", filesystem=log.filesystem)
    chart = curves({"train": step})
    assert chart is not None
    dots = re.findall(r'<circle class="(.*?)"', chart)
    assert dots == ["line c0", "t0", "t0"], "a ring at the first of the best, dots at the others; none for greek"
    assert ">greek</text>" in chart
    assert ">1.4</text>" in chart, "the axis reaches what is shown"


def test_nothing_is_shown_where_nothing_was_trained() -> None:
    assert curves({}) is None
