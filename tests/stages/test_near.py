from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cp_ray import steps
from cp_ray.arrow import from_table, to_table
from cp_ray.embedding import vector_column
from cp_ray.errors import ConfigError, RunFolderError
from cp_ray.pipeline import Run, Step, execute
from cp_ray.records import Opinion
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.near import NEAR, NearConfig, near

DUTY = "Germans think that work is a duty to society."
SAME = "Germans think that work is a duty to the society."
DOGS = "Germans think that dogs make good friends."


def opinion(id: str, culture: str, text: str, reject: str | None = None, of: str | None = None) -> Opinion:
    seed = id.rpartition("/")[0]
    return Opinion(id, "d", seed, culture, "Lukas", "claim", "question", text, reject=reject, duplicate_of=of)


OPINIONS = [
    opinion("german/Q1/0", "german", DUTY),
    opinion("german/Q2/0", "german", SAME),
    opinion("german/Q2/1", "german", DOGS),
    opinion("german/Q3/0", "german", DUTY, "redundant", "german/Q3/9"),
    opinion("greek/Q1/0", "greek", DUTY),
]


def embedded(opinions: list[Opinion]) -> pa.Table:
    """What an embedder would make of the three texts."""
    of = {DUTY: (1.0, 0.0, 0.0), SAME: (0.96, 0.28, 0.0), DOGS: (0.0, 0.0, 1.0)}
    vectors = np.array([of[o.text] for o in opinions], np.float32).reshape(-1, 3)
    return pa.table({"id": [o.id for o in opinions], "vector": vector_column(vectors, np.ones(len(vectors), bool))})


@pytest.mark.parametrize(("across", "kept"), [("culture", 2), ("run", 1)])
def test_nearly_the_same_across_seeds_is_set_aside(across: str, kept: int) -> None:
    given = OPINIONS if across == "run" else OPINIONS[::-1]
    vectors = embedded(OPINIONS[::2] + OPINIONS[1::2])
    rows = from_table(near(to_table(given, Opinion), vectors, NearConfig(across=across)), Opinion)
    made = {o.id: o for o in rows}
    assert made.keys() == {o.id for o in OPINIONS}, "what is set aside is kept"
    assert made["german/Q3/0"] == OPINIONS[3]
    assert made["german/Q2/1"].reject is None
    alike = [made[id] for id in ("german/Q1/0", "german/Q2/0", "greek/Q1/0")]
    left, aside = [o for o in alike if o.reject is None], [o for o in alike if o.reject == NEAR]
    assert (len(left), len(aside)) == (kept, 3 - kept)
    assert {o.duplicate_of for o in left} == {None}
    (repeated,) = {o.duplicate_of for o in aside}
    assert repeated in {o.id for o in left if across == "run" or o.culture == "german"}


def test_where_nothing_counts_nothing_is_done() -> None:
    for rows in ([], [OPINIONS[3]]):
        assert from_table(near(to_table(rows, Opinion), embedded([]), NearConfig()), Opinion) == rows


def test_an_opinion_without_a_vector_is_told() -> None:
    with pytest.raises(ValueError, match="1 opinions have no vector, one of them german/Q2/1"):
        near(to_table(OPINIONS, Opinion), embedded([o for o in OPINIONS if o.text != DOGS]), NearConfig())


@pytest.mark.long
def test_what_dedup_embedded_is_not_embedded_again(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Step("verify", NearConfig(), lambda *_: to_table(OPINIONS, Opinion), rows=Opinion)
    deduped = steps.dedup([said], DedupConfig(per_seed=1))
    none = Step("verify.2", NearConfig(), lambda *_: to_table([], Opinion), rows=Opinion)
    again = steps.dedup([said, none], DedupConfig(per_seed=1), deduped)
    run = Run(str(tmp_path))

    def do(*some: Step) -> None:
        execute(run, some, on_start=lambda _: None, on_done=lambda *_, skipped: None)

    do(said, none, deduped, again)
    monkeypatch.setattr("cp_ray.embedding.Embedder.encode", None)
    for before in (deduped, again):  # a wave that brought nothing hands on what the one before it left
        step = steps.near(before, NearConfig())
        do(step)
        rows, left = run.folder(before).read(Opinion), run.folder(step).read(Opinion)
        assert {o.id for o in left} == {o.id for o in rows} == {o.id for o in OPINIONS if o.reject is None}
        aside = [o for o in left if o.reject == NEAR]
        kept = {o.id for o in left if o.reject is None}
        assert [(o.culture, o.duplicate_of in kept) for o in aside] == [("german", True)]
        assert all(o.duplicate_of in {r.id for r in rows} for o in left if o.reject is not None)
    run.folder(deduped).filesystem.delete_dir((run.folder(deduped) / "vectors").path)
    run.folder(steps.near(deduped, NearConfig())).clear()
    with pytest.raises(RunFolderError, match="to do that step again"):
        do(steps.near(deduped, NearConfig()))


@pytest.mark.long
def test_waves_that_bring_no_opinion_leave_nothing_to_compare(ray_cluster: None, tmp_path: Path) -> None:
    config, run = DedupConfig(per_seed=1), Run(str(tmp_path))
    empty = [Step(f"verify.{k}", NearConfig(), lambda *_: to_table([], Opinion), rows=Opinion) for k in (1, 2)]
    said = Step("verify.3", NearConfig(), lambda *_: to_table(OPINIONS, Opinion), rows=Opinion)
    waves, before = [*empty, said], None
    for k in range(3):
        before = steps.dedup(waves[: k + 1], config, before)
        last = steps.near(before, NearConfig())
        execute(run, [waves[k], before, last], on_start=lambda _: None, on_done=lambda *_, skipped: None)
        assert len(run.folder(last).read(Opinion)) == (k == 2) * sum(o.reject is None for o in OPINIONS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"near": 1.01}, "near: must be from 0.8 to 1, got 1.01"),
        ({"near": float("nan")}, "near: must be from 0.8 to 1, got nan"),
        ({"across": "seed"}, "across: must be culture or run, got 'seed'"),
    ],
)
def test_wrong_options_are_told(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        NearConfig(**wrong)  # type: ignore[arg-type]
