from dataclasses import dataclass

import pytest

from cp_ray.serving.waiting import Waiting


@dataclass(eq=False)
class Asked:
    tenant: str
    cost: int = 10


def anybody(_: Asked) -> bool:
    return True


def only_b(asked: Asked) -> bool:
    return asked.tenant == "b"


def order(waiting: Waiting[Asked], n: int) -> str:
    return "".join(waiting.pop(anybody).tenant for _ in range(n))


def test_one_tenant_s_requests_keep_their_order() -> None:
    waiting: Waiting[Asked] = Waiting()
    asked = [Asked("a") for _ in range(3)]
    for request in asked:
        waiting.push(request)
    assert [waiting.pop(anybody) for _ in range(3)] == asked
    assert waiting.peek(anybody) is None


def test_a_flood_does_not_keep_others_waiting() -> None:
    waiting: Waiting[Asked] = Waiting()
    for _ in range(100):
        waiting.push(Asked("a"))
    assert order(waiting, 50) == "a" * 50
    for _ in range(3):
        waiting.push(Asked("b"))
    assert order(waiting, 6).count("b") == 3


def test_shares_are_of_tokens_not_of_requests() -> None:
    waiting: Waiting[Asked] = Waiting()
    for _ in range(20):
        waiting.push(Asked("a", 40))
        waiting.push(Asked("b", 10))
    assert order(waiting, 20).count("b") == 16


def test_nobody_saves_up_turns() -> None:
    waiting: Waiting[Asked] = Waiting()
    waiting.push(Asked("b"))
    assert waiting.pop(anybody).tenant == "b"
    for _ in range(50):
        waiting.push(Asked("a"))
    order(waiting, 40)
    for _ in range(10):
        waiting.push(Asked("b"))
    assert order(waiting, 10).count("b") == 5


def test_those_whose_turn_it_is_not_are_passed_over() -> None:
    waiting: Waiting[Asked] = Waiting()
    waiting.push(Asked("a"))
    waiting.push(Asked("b"))
    assert waiting.count() == {"a": 1, "b": 1}
    assert waiting.pop(only_b).tenant == "b"
    assert waiting.peek(only_b) is None
    with pytest.raises(LookupError):
        waiting.pop(only_b)
    assert waiting.pop(anybody).tenant == "a"


def test_who_leaves_is_not_answered() -> None:
    waiting: Waiting[Asked] = Waiting()
    gone, stays = Asked("a"), Asked("a")
    waiting.push(gone)
    waiting.push(stays)
    assert waiting.remove(gone)
    assert not waiting.remove(gone)
    assert (len(waiting), waiting.peek(anybody)) == (1, stays)
    assert waiting.drain() == [stays]
    assert len(waiting) == 0
