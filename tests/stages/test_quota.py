import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray import steps
from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.folder import open_folder
from cp_ray.pipeline import Step
from cp_ray.records import Candidate, Opinion, Seed
from cp_ray.stages.quota import SURPLUS, QuotaConfig, next_wave, take


def candidates(culture: str, n: int, seeds: int = 8) -> list[Candidate]:
    rows = [
        Seed(f"{culture}/Q{k}", culture, "s", f"Q{k}", "t", "?", ("a",), (1.0,), 1, "a", "train") for k in range(seeds)
    ]
    return [Candidate(f"{culture}/{k}", rows[k % seeds], k // seeds) for k in range(n)]


def opinion(culture: str, seed: int, k: int, reject: str | None = None) -> Opinion:
    return Opinion(f"{culture}/Q{seed}/{k:03d}", "d", f"{culture}/Q{seed}", culture, "x", "c", "q", "t", reject=reject)


@given(st.floats(0.2, 8), st.integers(1, 200), st.integers(0, 99))
def test_the_waves_reach_the_number_or_use_up_the_candidates(gives: float, wanted: int, seed: int) -> None:
    draw, every = random.Random(seed), candidates("a", 400) + candidates("b", 400)
    config = QuotaConfig(wanted, 300)
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    seen: set[str] = set()
    for _ in range(8):
        wave = next_wave(every, tried, accepted, config)
        assert not seen & {c.id for c in wave}, "nothing is tried twice"
        seen |= {c.id for c in wave}
        for candidate in wave:
            tried[candidate.seed.culture] += 1
            accepted[candidate.seed.culture] += int(gives) + (draw.random() < gives % 1)
    for culture in "ab":
        assert tried[culture] <= 300
        assert accepted[culture] >= wanted or tried[culture] == 300


def test_a_culture_that_has_enough_is_left_alone() -> None:
    every = candidates("a", 20) + candidates("b", 20)
    wave = next_wave(every, {"a": 5, "b": 5}, {"a": 10, "b": 5}, QuotaConfig(10, 20))
    assert {c.seed.culture for c in wave} == {"b"}
    assert wave[0].id == "b/5"


def test_where_nothing_was_accepted_more_is_tried() -> None:
    wave = next_wave(candidates("a", 500), {"a": 10}, {}, QuotaConfig(10, 500))
    assert 100 < len(wave) <= 490


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.booleans()), max_size=60), st.integers(1, 12))
def test_exactly_so_many_are_taken_and_from_all_seeds(rows: list[tuple[str, int, bool]], wanted: int) -> None:
    given_rows = [opinion(c, s, k, "no" if rejected else None) for k, (c, s, rejected) in enumerate(rows)]
    made = take(given_rows, QuotaConfig(wanted, 1))
    assert [o.id for o in made] == sorted(o.id for o in given_rows)
    for culture in "ab":
        had = [o for o in given_rows if o.culture == culture and o.reject is None]
        kept = [o for o in made if o.culture == culture and o.reject is None]
        assert len(kept) == min(wanted, len(had))
        assert sum(o.reject == SURPLUS for o in made if o.culture == culture) == len(had) - len(kept)
        # No seed gives a second while another that had one gave none.
        by_seed, available = Counter(o.seed_id for o in kept), Counter(o.seed_id for o in had)
        most = max(by_seed.values(), default=0)
        assert all(by_seed[s] >= min(n, most - 1) for s, n in available.items())


@pytest.mark.parametrize("wrong", [{"accepted": 0}, {"candidates": 0}, {"waves": 0}])
def test_wrong_numbers_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: must be at least 1"):
        QuotaConfig(**{"accepted": 1, "candidates": 1, **wrong})


def test_a_culture_of_which_nothing_is_left_is_named_too(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    before = Step("dedup", None, lambda folder, inputs: None)
    step = steps.quota(before, QuotaConfig(2, 3), (CULTURES["greek"], CULTURES["german"]))
    rows = folder / "rows"
    rows.filesystem.create_dir(rows.path, recursive=True)
    pq.write_table(to_table([opinion("greek", 0, 0)], Opinion), f"{rows.path}/0.parquet", filesystem=rows.filesystem)
    assert step.remarks is not None
    assert step.remarks(folder, {}) == ["0 of 2 opinions of german", "1 of 2 opinions of greek"]
