import torch

from cp_ray.serving.prefix import PrefixCache, RowState


def state(tokens: int, seed: int = 0) -> RowState:
    generator = torch.Generator().manual_seed(seed)
    return RowState(tuple((torch.rand(2, tokens, 3, generator=generator),) * 2 for _ in range(2)))


def same(a: RowState, b: RowState) -> bool:
    return all(torch.equal(x, y) for p, q in zip(a.layers, b.layers, strict=True) for x, y in zip(p, q, strict=True))


def test_the_longest_shared_beginning_is_found() -> None:
    kept = PrefixCache(10**6)
    kept.put("a", "german", [1, 2, 3], state(3, 1))
    kept.put("a", "german", [1, 2, 9, 9], state(4, 2))
    found = kept.find("a", "german", [1, 2, 9, 5, 5])
    assert found is not None
    assert same(found, state(4, 2).first(3))


def test_one_token_is_always_left_to_compute() -> None:
    kept = PrefixCache(10**6)
    kept.put("a", "german", [1, 2, 3], state(3))
    found = kept.find("a", "german", [1, 2, 3])
    assert found is not None
    assert found.tokens == 2
    assert kept.find("a", "german", [1]) is None


def test_another_model_s_state_is_never_used() -> None:
    kept = PrefixCache(10**6)
    kept.put("a", "german", [1, 2, 3], state(3))
    assert kept.find("a", "arabic", [1, 2, 3, 4]) is None
    assert kept.find("a", "german", [2, 3]) is None


def test_another_tenant_s_state_is_never_used_nor_replaced() -> None:
    kept = PrefixCache(10**6)
    kept.put("a", "german", [1, 2, 3], state(3, 1))
    kept.put("b", "german", [1, 2, 3, 4], state(4, 2))
    assert kept.find("c", "german", [1, 2, 3, 4]) is None
    found = [kept.find(tenant, "german", [1, 2, 3, 4, 5]) for tenant in ("a", "b")]
    assert [one and one.tokens for one in found] == [3, 4]


def test_the_states_used_longest_ago_go_first() -> None:
    kept = PrefixCache(2 * state(3).nbytes)
    kept.put("a", "m", [1, 1, 1], state(3))
    kept.put("a", "m", [2, 2, 2], state(3))
    assert kept.find("a", "m", [1, 1, 1, 1]) is not None
    kept.put("a", "m", [3, 3, 3], state(3))
    assert kept.find("a", "m", [2, 2, 2, 2]) is None
    assert kept.find("a", "m", [1, 1, 1, 1]) is not None


def test_a_longer_state_takes_the_place_of_its_own_beginning() -> None:
    kept = PrefixCache(state(6).nbytes)
    kept.put("a", "m", [1, 2, 3], state(3))
    kept.put("a", "m", [1, 2, 3, 4, 5, 6], state(6))
    found = kept.find("a", "m", [1, 2, 3, 4, 5, 6, 7])
    assert found is not None
    assert found.tokens == 6
