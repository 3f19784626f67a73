from cp_ray.serving.keys import Key
from cp_ray.serving.limits import Gate, Refused

A, B = Key("a"), Key("b")


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def entered(gate: Gate, key: Key, n: int) -> int:
    return sum(gate.enter(key) is None for _ in range(n))


def test_requests_beyond_what_may_be_under_way_are_told_to_come_again() -> None:
    gate = Gate(20)
    assert entered(gate, A, 100) == 18
    refused = gate.enter(A)
    assert refused is not None
    assert (refused.code, refused.retry_after) == ("overloaded", "1")
    gate.leave(A, 0)
    assert entered(gate, A, 5) == 1


def test_a_flood_of_one_key_leaves_room_for_another() -> None:
    gate = Gate(20, Clock())
    entered(gate, A, 100)
    assert entered(gate, B, 10) == 10
    for _ in range(18):
        gate.leave(A, 0)
    assert entered(gate, A, 100) == 10


def test_a_key_that_was_not_refused_of_late_may_have_twice_its_share() -> None:
    clock = Clock()
    gate = Gate(20, clock)
    entered(gate, A, 100)
    assert entered(gate, B, 100) == 20
    for _ in range(10):
        gate.leave(B, 0)
    assert entered(gate, B, 100) == entered(gate, A, 100) == 0
    clock.now += 10
    assert entered(gate, B, 100) == 10


def test_requests_per_minute_come_back_as_time_passes() -> None:
    clock = Clock()
    gate, key = Gate(100, clock), Key("a", requests_per_minute=6)
    assert entered(gate, key, 10) == 6
    refused = gate.enter(key)
    assert refused is not None
    assert (refused.code, refused.retry_after) == ("rate_limit_exceeded", "10")
    clock.now += 10
    assert entered(gate, key, 10) == 1
    assert entered(gate, B, 10) == 10


def test_a_long_answer_is_paid_for_by_those_that_follow() -> None:
    clock = Clock()
    gate, key = Gate(100, clock), Key("a", tokens_per_minute=600)
    assert gate.enter(key) is None
    gate.leave(key, 1200)
    refused = gate.enter(key)
    assert isinstance(refused, Refused)
    assert 60 <= refused.retry_after_s <= 61
    clock.now += refused.retry_after_s
    assert gate.enter(key) is None


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    gate, key = Gate(1, clock), Key("a", requests_per_minute=2)
    assert gate.enter(key) is None
    assert entered(gate, key, 5) == 0
    gate.leave(key, 0)
    assert gate.enter(key) is None
    assert gate.under_way == 1
