import pickle
import re

import pytest

from cp_ray import errors

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "told_in"]


def test_the_docstring_draws_the_real_tree() -> None:
    drawn = re.findall(r"^(?P<bars>[ │├└─]*)(?P<name>[A-Z]\w+) {2,}\S", errors.__doc__ or "", flags=re.MULTILINE)
    parents: list[tuple[int, str]] = []
    found = {}
    for bars, name in drawn:
        while parents and parents[-1][0] >= len(bars):
            parents.pop()
        found[name] = parents[-1][1] if parents else "Exception"
        parents.append((len(bars), name))
    assert found == {c.__name__: c.__mro__[1].__name__ for c in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_survives_its_way_from_a_worker(error: type[Exception]) -> None:
    back = pickle.loads(pickle.dumps(error("field: rule, got x")))
    assert type(back) is error
    assert str(back) == "field: rule, got x"


def test_an_error_is_found_in_a_traceback() -> None:
    text = "Traceback:\n  ...\ncp_ray.errors.TeacherDenied: teacher-url: x refuses the key\n\nray.exceptions.Other: y"
    found = errors.told_in(text)
    assert type(found) is errors.TeacherDenied
    assert str(found) == "teacher-url: x refuses the key"
    assert errors.told_in("ValueError: nothing of ours") is None
