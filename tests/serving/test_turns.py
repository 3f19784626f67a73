from dataclasses import dataclass

from cp_ray.serving.turns import Turns


@dataclass
class Chat:
    tenant: str
    passed: int = 0
    most: int = 10

    @property
    def due(self) -> bool:
        return self.passed >= self.most


def who_goes(turns: Turns, **chats: int) -> str:
    turns.begin(chats)
    return "".join(tenant for tenant in chats if turns.goes(Chat(tenant)))


def test_a_tenant_that_asks_for_little_is_first() -> None:
    assert who_goes(Turns(), a=30, b=1) == "b"
    assert who_goes(Turns(), a=30, b=1, c=2) == "b"


def test_tenants_with_about_as_much_compute_together() -> None:
    assert who_goes(Turns(), a=15, b=16, c=14, d=22) == "abc"
    assert who_goes(Turns(), a=1, b=1) == "ab"


def test_a_tenant_alone_always_goes() -> None:
    turns = Turns()
    assert who_goes(turns, a=30) == "a"
    assert not turns.shared
    assert who_goes(turns) == ""


def test_a_chat_is_held_back_no_longer_than_it_is_due() -> None:
    turns, held = Turns(), Chat("flood")
    seen = []
    for _ in range(14):
        turns.begin({"flood": 30, "steady": 1})
        seen.append(turns.goes(held))
        turns.end([held])
    assert seen == [False] * 10 + [True] * 4
    assert turns.shared


def test_others_go_on_where_there_is_no_room_for_those_who_are_first() -> None:
    turns = Turns()
    turns.begin({"flood": 30, "polite": 1})
    turns.all_go({"flood"})
    assert turns.goes(Chat("flood"))
