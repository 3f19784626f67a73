from typing import Any

import pytest

from cp_ray.arrow import to_table
from cp_ray.branches import Branches
from cp_ray.training.rows import Held, Rows, Stored, Tokenised, heads

pytestmark = pytest.mark.usefixtures("ray_cluster")

PER_BLOCK = 5


def block(number: int) -> Any:
    first = number * PER_BLOCK
    made = [
        Tokenised(k, 0, k, k % 2, False, k % 3 > 0, k + 2, 0.5 * k, (1,) * k, ((k, 2),), (0.5 * k,))
        for k in range(first, first + PER_BLOCK)
    ]
    return to_table(made, Tokenised)


@pytest.fixture
def stored() -> Rows:
    """Twenty rows in four blocks, in an order of their own."""
    import pyarrow as pa
    import ray

    made = ray.remote(block)
    known = pa.concat_tables([heads(block(k), k) for k in range(4)])
    return Rows(known.sort_by([("tokens", "descending")]), Stored([made.remote(k) for k in range(4)]))


def test_rows_are_read_from_blocks_that_lie_elsewhere(stored: Rows) -> None:
    import pyarrow as pa

    rows = [(r.adapter, r.tokens, r.weight, r.shares, r.branches) for r in stored]
    assert rows == [
        (k % 2, k + 2, 0.5 * k, k % 3 > 0, Branches((1,) * k, ((k, 2),), (0.5 * k,))) for k in reversed(range(20))
    ]
    here = [block(k) for k in range(4)]
    held = Rows(pa.concat_tables([heads(one, k) for k, one in enumerate(here)]), Held(here))
    assert [r.branches for r in held] == [row[-1] for row in reversed(rows)]


def test_only_blocks_that_are_expected_are_kept_here(stored: Rows) -> None:
    stored.expect([0, 1, 19])
    blocks = stored.blocks
    assert isinstance(blocks, Stored)
    assert set(blocks.coming) == {3, 0}, "the longest rows are in the last block"
    kept = blocks[3]
    stored.expect([0, 6])
    assert set(blocks.coming) == {3, 2}
    assert blocks[3] is kept, "what is expected again is not fetched again"
    assert stored[10].branches.answers == ((9, 2),), "one that was not expected is read all the same"
    assert set(blocks.coming) == {3, 2}


def test_another_process_reads_them_too(stored: Rows) -> None:
    import ray

    @ray.remote
    def answers(rows: Rows) -> list[int]:
        rows.expect(range(len(rows)))
        return [row.branches.answers[0][0] for row in rows]

    assert ray.get(answers.remote(ray.put(stored))) == list(reversed(range(20)))
