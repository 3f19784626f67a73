import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.serving.sampling import draw, uniform

LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()


@pytest.mark.parametrize(("number", "token"), [(0.0, 0), (0.099, 0), (0.101, 1), (0.299, 1), (0.301, 2), (0.999, 3)])
def test_a_draw_inverts_the_distribution_function(number: float, token: int) -> None:
    assert draw(LOGITS[None], [1.0], [1.0], [number]).tolist() == [token]


def test_temperature_zero_takes_the_likeliest_whatever_the_number() -> None:
    assert draw(LOGITS.expand(2, -1), [0.0, 0.0], [1.0, 1.0], [0.0, 0.999]).tolist() == [3, 3]


def test_rows_keep_their_own_settings() -> None:
    tokens = draw(LOGITS.expand(3, -1), [0.0, 1.0, 1.0], [1.0, 1.0, 0.5], [0.0, 0.0, 0.0])
    assert tokens.tolist() == [3, 0, 2]


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 2), st.floats(0.01, 1))
def test_a_token_of_probability_zero_is_never_drawn(number: float, temperature: float, top_p: float) -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]])
    assert draw(logits, [temperature], [top_p], [number]).item() in (1, 3)


def test_numbers_follow_from_seed_prompt_and_step_and_are_spread() -> None:
    numbers = [uniform(seed, prompt, step) for seed in range(10) for prompt in (b"a", b"b") for step in range(50)]
    assert len(set(numbers)) == 1000
    assert numbers == [uniform(s, p, t) for s in range(10) for p in (b"a", b"b") for t in range(50)]
    assert all(0 <= n < 1 for n in numbers)
    assert 0.45 < sum(numbers) / 1000 < 0.55
