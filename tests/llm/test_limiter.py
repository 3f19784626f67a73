import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import ConfigError
from cp_ray.llm.limiter import Limits, Schedule, SharedLimiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    rpm=st.integers(30, 6000),
    tpm=st.integers(1000, 100_000),
    asked=st.lists(st.tuples(st.floats(0, 2), st.lists(st.integers(1, 900), max_size=8)), max_size=30),
)
def test_no_window_sees_more_than_its_share(rpm: int, tpm: int, asked: list[tuple[float, list[int]]]) -> None:
    clock = Clock()
    schedule = Schedule(Limits(rpm, tpm), clock=clock)
    started: list[tuple[float, int]] = []
    for pause, tokens in asked:
        clock.now += pause
        started += [(clock.now + delay, count) for delay, count in zip(schedule.reserve(tokens), tokens, strict=True)]
    assert [at for at, _ in started] == sorted(at for at, _ in started), "in the order asked"
    for first in range(len(started)):
        for last in range(first, len(started)):
            window = started[last][0] - started[first][0]
            inside = started[first : last + 1]
            # A second of burst, and the last one may start with the allowance it is about to use up.
            assert len(inside) <= rpm / 60 * (window + 1) + 1.001
            assert sum(count for _, count in inside[:-1]) <= tpm / 60 * (window + 1) + 0.001


@given(st.integers(1, 600), st.integers(2, 200))
def test_waiting_calls_get_the_whole_rate(rpm: int, calls: int) -> None:
    delays = Schedule(Limits(rpm), clock=Clock()).reserve([1] * calls)
    assert delays == pytest.approx([k * 60 / rpm for k in range(calls)])


def test_it_starts_without_a_burst_and_saves_one_up() -> None:
    clock = Clock()
    schedule = Schedule(Limits(rpm=60), clock=clock)
    assert schedule.reserve([1, 1, 1]) == pytest.approx([0, 1, 2])
    clock.now += 60
    assert schedule.reserve([1, 1, 1]) == pytest.approx([0, 0, 1])


def test_unused_tokens_come_back() -> None:
    schedule = Schedule(Limits(tpm=600), clock=Clock())
    assert schedule.reserve([100, 100]) == pytest.approx([0, 10])
    assert schedule.reserve([100], refund=150) == pytest.approx([5])


def test_a_pause_holds_everybody() -> None:
    clock = Clock()
    schedule = Schedule(Limits(rpm=6000), clock=clock)
    schedule.pause(3)
    schedule.pause(1)
    assert schedule.reserve([1])[0] == pytest.approx(3)
    clock.now += 5
    assert schedule.reserve([1])[0] == 0


@pytest.mark.parametrize("limits", [{"rpm": 0}, {"tpm": -5}])
def test_a_limit_of_nothing_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Limits(**limits)


def test_workers_share_one_limit(ray_cluster: None) -> None:
    async def run() -> list[float]:
        limiters = [SharedLimiter(Limits(rpm=1200), "test-shared") for _ in range(2)]
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(limiter.acquire(1) for limiter in limiters))
        began = loop.time()

        async def one(limiter: SharedLimiter) -> float:
            await limiter.acquire(1)
            return loop.time() - began

        return sorted(await asyncio.gather(*(one(limiters[k % 2]) for k in range(60))))

    at = asyncio.run(run())
    # 20 a second for both together after a burst of one second's worth; with a limit each, 60 would take one second.
    assert at[-1] >= 1.8
