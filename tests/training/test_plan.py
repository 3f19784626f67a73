from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.training.config import AdapterConfig
from cp_ray.training.plan import batches, deal, groups, packs, plan
from cp_ray.training.rows import Held, Rows, Tokenised, heads


def table(*rows: tuple[int, int]) -> Rows:
    """Of rows with so many tokens, each of an adapter."""
    made = [Tokenised(k, 0, own, False, True, n, 1.0, (1,) * n, ((2,),), (1.0,)) for k, (n, own) in enumerate(rows)]
    block = to_table(made, Tokenised)
    return Rows(heads(block, 0), Held((block,)))


ROWS = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 3)), min_size=1, max_size=60)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    size=st.integers(1, 9),
    passes=st.integers(1, 4),
    seed=st.text(max_size=3),
)
def test_each_pass_takes_every_row_once(lengths: list[int], size: int, passes: int, seed: str) -> None:
    steps = batches(lengths, size, passes, seed)
    assert Counter(i for step in steps for i in step) == dict.fromkeys(range(len(lengths)), passes)
    assert all(1 <= len(step) <= size for step in steps)
    assert steps == batches(lengths, size, passes, seed)


def test_an_adapters_order_hangs_on_its_rows_and_the_seed_alone() -> None:
    greek, german = (AdapterConfig(id, (CULTURES[id],), passes=2, batch_size=2) for id in ("greek", "german"))
    alone = table(*((n, 0) for n in range(1, 8)))
    beside = table(*((n + 50, 0) for n in range(9)), *((n, 1) for n in range(1, 8)))
    (own,) = plan(alone, [greek], seed=3)
    _, same = plan(beside, [german, greek], seed=3)
    assert [[i + 9 for i in step] for step in own] == same
    assert plan(alone, [german], seed=3) == [own], "what tells adapters apart is their answers"
    assert plan(alone, [greek], seed=4) != [own]


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=40), workers=st.integers(1, 5))
def test_a_step_is_dealt_out_whole_and_evenly(lengths: list[int], workers: int) -> None:
    parts = deal(range(len(lengths)), lengths, workers)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


@given(given_=ROWS, most=st.integers(16, 400), packing=st.booleans())
def test_groups_keep_to_the_tokens_and_lines_to_an_adapter(
    given_: list[tuple[int, int]], most: int, packing: bool
) -> None:
    rows = table(*given_)
    found = groups(range(len(rows)), rows, most, packing=packing)
    assert sorted(i for group in found for line in group for i in line) == list(range(len(rows)))
    for group in found:
        owners = [{rows[i].adapter for i in line} for line in group]
        assert all(len(owner) == 1 for owner in owners)
        assert [min(o) for o in owners] == sorted(min(o) for o in owners)
        padded = len(group) * max(sum(rows[i].tokens for i in line) for line in group)
        assert padded <= most or len(group) == 1
        assert packing or all(len(line) == 1 for line in group)


def test_packing_fills_lines() -> None:
    rows = table(*((n, 0) for n in (60, 50, 40, 30, 20)))
    assert packs(range(5), rows, 100) == [[0, 2], [1, 3, 4]]


@pytest.mark.parametrize("most", [16, 64, 256])
def test_a_group_wastes_little_on_padding(most: int) -> None:
    rows = table(*((10 + k % 7, 0) for k in range(200)))
    found = groups(range(200), rows, most, packing=False)
    padded = sum(len(g) * max(rows[line[0]].tokens for line in g) for g in found)
    assert padded <= 1.25 * sum(r.tokens for r in rows)


def test_an_adapter_that_fills_a_third_of_a_group_has_groups_of_its_own() -> None:
    rows = table(*((10, 0) for _ in range(5)), *((10, 1) for _ in range(2)), *((9, 2) for _ in range(3)))
    owners = [[int(rows[line[0]].adapter) for line in g] for g in groups(range(10), rows, 100, packing=False)]
    assert sorted(owners) == [[0, 0, 0, 0, 0], [1, 1, 2, 2, 2]]
