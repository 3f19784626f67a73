import pytest

from cp_ray.arrow import from_table, to_table
from cp_ray.errors import ConfigError
from cp_ray.records import Opinion
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


@pytest.mark.parametrize(("across", "kept"), [("culture", 2), ("run", 1)])
def test_nearly_the_same_across_seeds_is_set_aside(ray_cluster: None, across: str, kept: int) -> None:
    given = OPINIONS if across == "run" else OPINIONS[::-1]
    rows = from_table(near(to_table(given, Opinion), NearConfig(across=across), workers=1), Opinion)
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
        assert from_table(near(to_table(rows, Opinion), NearConfig()), Opinion) == rows


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
