import pytest

from cp_ray.cultures import CULTURES
from tests.golden import FOLDER, prompts


@pytest.mark.parametrize("culture", CULTURES)
def test_prompts_are_as_they_were_read_and_approved(culture: str) -> None:
    # After a wanted change: python -m tests.golden, then read the difference.
    assert prompts(culture) == (FOLDER / f"{culture}.txt").read_text(encoding="utf-8")
