from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.training.config import AdapterConfig
from cp_ray.training.plan import alike, batches, deal, groups, packs, plan
from cp_ray.training.rows import Held, Rows, Tokenised, heads


def table(*rows: tuple[int, int], stems: Sequence[int] | None = None) -> Rows:
    """Of rows with so many tokens, each of an adapter, and of a stem of its own unless they are given."""
    made = [
        Tokenised(k, 0, k if stems is None else stems[k], own, False, True, n, 1.0, (1,) * n, ((2,),), (1.0,))
        for k, (n, own) in enumerate(rows)
    ]
    block = to_table(made, Tokenised)
    return Rows(heads(block, 0), Held((block,)))


ROWS = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 3)), min_size=1, max_size=60)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    size=st.integers(1, 9),
    passes=st.integers(1, 4),
    seed=st.text(max_size=3),
    draw=st.data(),
)
def test_each_pass_takes_every_row_once(
    lengths: list[int], size: int, passes: int, seed: str, draw: st.DataObject
) -> None:
    stems = [draw.draw(st.integers(0, k)) for k in range(len(lengths))]
    steps = batches(lengths, stems, size, passes, seed)
    assert Counter(i for step in steps for i in step) == dict.fromkeys(range(len(lengths)), passes)
    assert all(1 <= len(step) <= size for step in steps)
    assert steps == batches(lengths, stems, size, passes, seed)


def test_rows_of_a_stem_are_taken_in_one_step() -> None:
    lengths, stems = [10 + k // 2 % 5 for k in range(80)], [k // 2 for k in range(80)]
    steps = batches(lengths, stems, 8, 3, "0")
    assert all(sorted(Counter(stems[i] for i in step).values()) == [2, 2, 2, 2] for step in steps)
    assert len({tuple(step) for step in steps}) == 30, "no two passes are alike"


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
    parts = deal(range(len(lengths)), table(*((n, 0) for n in lengths)), workers)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


def test_a_stem_is_dealt_to_one_worker_unless_others_would_idle() -> None:
    rows = table(*((60, 0) for _ in range(8)), stems=[k // 2 * 2 for k in range(8)])
    assert sorted(map(sorted, deal(range(8), rows, 2))) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert sorted(map(sorted, deal(range(8), rows, 4))) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sorted(map(sorted, deal(range(8), rows, 8))) == [[k] for k in range(8)]
    long = table(*((60, 0) for _ in range(8)), stems=[0] * 8)
    assert sorted(map(sorted, deal(range(8), long, 2))) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(given_=ROWS, most=st.integers(16, 400), line=st.none() | st.integers(16, 400), stems=st.integers(1, 9))
def test_groups_keep_to_the_tokens_and_lines_to_an_adapter(
    given_: list[tuple[int, int]], most: int, line: int | None, stems: int
) -> None:
    rows = table(*given_, stems=[k // stems for k in range(len(given_))])
    line = line and min(line, most)
    found = groups(range(len(rows)), rows, most, line)
    assert sorted(i for group in found for line in group for i in line) == list(range(len(rows)))
    for group in found:
        owners = [{rows[i].adapter for i in line} for line in group]
        assert all(len(owner) == 1 for owner in owners)
        assert [min(o) for o in owners] == sorted(min(o) for o in owners)
        padded = len(group) * max(sum(rows[i].tokens for i in line) for line in group)
        assert padded <= most or len(group) == 1
        for own in group:
            assert len(own) == 1 or (line is not None and sum(rows[i].tokens for i in own) <= line)


def test_packing_fills_lines() -> None:
    rows = table(*((n, 0) for n in (60, 50, 40, 30, 20)))
    assert packs([[k] for k in range(5)], rows, 100) == [[0, 2], [1, 3, 4]]


def test_rows_that_begin_alike_are_packed_together() -> None:
    rows = table(*((30, 0) for _ in range(6)), stems=[0, 1, 0, 1, 0, 1])
    assert packs(alike(range(6), rows, 100), rows, 100) == [[0, 2, 4], [1, 3, 5]]
    assert packs(alike(range(6), rows, 70), rows, 100) == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("most", [16, 64, 256])
def test_a_group_wastes_little_on_padding(most: int) -> None:
    rows = table(*((10 + k % 7, 0) for k in range(200)))
    found = groups(range(200), rows, most, None)
    padded = sum(len(g) * max(rows[line[0]].tokens for line in g) for g in found)
    assert padded <= 1.25 * sum(r.tokens for r in rows)


def test_an_adapter_that_fills_a_third_of_a_group_has_groups_of_its_own() -> None:
    rows = table(*((10, 0) for _ in range(5)), *((10, 1) for _ in range(2)), *((9, 2) for _ in range(3)))
    owners = [[int(rows[line[0]].adapter) for line in g] for g in groups(range(10), rows, 100, None)]
    assert sorted(owners) == [[0, 0, 0, 0, 0], [1, 1, 2, 2, 2]]
