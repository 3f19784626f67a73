import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.llm.call import failure
from cp_ray.llm.scripted import Scripted
from cp_ray.records import Candidate, Opinion, Seed
from cp_ray.stages.direct import DirectConfig, direct

GERMAN = CULTURES["german"]
SEED = Seed("german/Q40", "german", "wvs7", "Q40", "social values", "Is work a duty?", ("Agree", "Disagree"),
            (0.7, 0.3), 90, "Agree", "train")  # fmt: skip


def ask(model: Scripted, opinions: int = 10) -> list[Opinion]:
    config = DirectConfig("t", (GERMAN,), opinions)
    return asyncio.run(direct(Candidate("german/Q40/2", SEED, 2), model, config))


def test_a_list_becomes_opinions_on_the_survey_s_answer() -> None:
    model = Scripted(
        ["1. Germans think that work keeps a town alive.\n2. Too short.\n3. Germans think that idleness ends badly."]
    )
    rows = ask(model, opinions=2)
    assert [(row.id, row.reject) for row in rows] == [
        ("german/Q40/direct/2/0", None), ("german/Q40/direct/2/1", "too short"),
    ]  # fmt: skip
    assert rows[0].claim == 'Asked "Is work a duty?", Germans most often answer "Agree".'
    (messages, sampling), *_ = model.calls
    assert rows[0].claim in messages[-1].content
    assert sampling.seed == 2


def test_samples_differ() -> None:
    draws = set()
    for sample in range(3):
        model = Scripted(["none"])
        asyncio.run(direct(Candidate(f"c/{sample}", SEED, sample), model, DirectConfig("t", (GERMAN,), seed=1)))
        draws.add(model.calls[0][1].seed)
    assert len(draws) == 3


def test_no_answer_is_a_row_with_its_reason() -> None:
    assert [row.reject for row in ask(Scripted([failure("content_filter")]))] == ["content_filter"]


@given(st.text())
def test_whatever_is_said_is_opinions_or_a_reject(text: str) -> None:
    rows = ask(Scripted([text]))
    assert rows
    assert all(row.text or row.reject for row in rows)


def test_a_list_asked_for_as_json() -> None:
    config = DirectConfig("t", (GERMAN,), structured=True)
    said = '{"opinions": ["Germans think that work keeps a town alive.", "Short."]}'
    rows = asyncio.run(direct(Candidate("c/0", SEED), Scripted(["no JSON", said]), config))
    assert [row.reject for row in rows] == [None, "too short"]
    (row,) = asyncio.run(direct(Candidate("c/0", SEED), Scripted(['{"opinions": []}']), config))
    assert row.reject == "no opinion given"


def test_no_opinions_are_not_asked_for() -> None:
    with pytest.raises(ConfigError, match="opinions: must be at least 1"):
        DirectConfig("t", (GERMAN,), opinions=0)
