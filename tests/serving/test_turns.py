from collections import Counter

from cp_ray.serving.turns import Turns


def steps(turns: Turns, clock: list[float], chats: dict[str, int], n: int) -> Counter[str]:
    """In how many of the next steps, of a second each, each tenant computes."""
    seen: Counter[str] = Counter()
    for _ in range(n):
        turn = turns.first(chats)
        clock[0] += 1
        turns.charge({tenant: chats[tenant] for tenant in turn})
        seen.update(turn)
    return seen


def make() -> tuple[Turns, list[float]]:
    clock = [0.0]
    return Turns(lambda: clock[0]), clock


def test_a_tenant_that_comes_to_a_flood_is_first() -> None:
    turns, clock = make()
    assert steps(turns, clock, {"flood": 30}, 100) == {"flood": 100}
    assert steps(turns, clock, {"flood": 30, "polite": 1}, 4) == {"polite": 4}


def test_tenants_with_as_much_under_way_compute_together() -> None:
    turns, clock = make()
    assert steps(turns, clock, {"a": 15, "b": 16, "c": 14}, 50) == {"a": 50, "b": 50, "c": 50}


def test_a_tenant_that_always_asks_holds_the_others_back_for_its_share_of_the_time() -> None:
    turns, clock = make()
    seen = steps(turns, clock, {"flood": 30, "steady": 1}, 1000)
    assert seen["steady"] == 1000
    # Of what is left after its credit, half is its own: the other half is the flood's, where it computes as well.
    assert 450 < seen["flood"] < 550


def test_what_is_saved_up_is_forgotten() -> None:
    turns, clock = make()
    steps(turns, clock, {"flood": 30, "polite": 1}, 10)
    steps(turns, clock, {"flood": 30}, 10_000)
    assert steps(turns, clock, {"flood": 30, "polite": 1}, 12)["flood"] > 3


def test_nobody_computes_where_nobody_asks() -> None:
    turns, clock = make()
    assert steps(turns, clock, {}, 3) == {}
