"""An async stage on real Ray, against a scripted teacher over real HTTP."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cp_ray.arrow import from_table, to_table
from cp_ray.errors import TeacherDenied, TeacherUnknownModel
from cp_ray.llm.call import Completion, Generate, Sampling, Usage
from cp_ray.llm.door import Door, Target
from cp_ray.records import Message, Prediction
from cp_ray.rollout import cause_of, rollout


@dataclass(frozen=True)
class Config:
    turns: int


async def count_up(row: Prediction, generate: Generate, config: Config) -> list[Prediction]:
    """A few dependent turns: each asks about the last answer."""
    chat = [Message("user", row.item)]
    for _ in range(config.turns):
        answer = await generate(chat, Sampling(0.0, 10))
        if not answer.text:
            return [Prediction(row.id, "m", "german", "chat", row.item, "")]
        chat += [Message("assistant", answer.text), Message("user", "next")]
    return [Prediction(row.id, "m", "german", "chat", row.item, chat[-2].content)]


def count(messages: Sequence[Message], sampling: Sampling) -> str:
    return f"{messages[0].content}-{len(messages)}"


def rows(n: int) -> list[Prediction]:
    return [Prediction(f"r{k:03d}", "m", "german", "chat", f"item {k}", "") for k in range(n)]


def run(server: Any, root: Path, n: int, turns: int = 3, **more: Any) -> list[Prediction]:
    import ray
    import ray.data

    given = rows(n)
    half = [to_table(given[: n // 2], Prediction), to_table(given[n // 2 :], Prediction)]
    door = Door((Target(server.url, more.pop("model", "scripted")),), str(root), "test", **more)
    made = rollout(ray.data.from_arrow(half), count_up, Config(turns), door, rows_in=Prediction, rows_out=Prediction)
    found = from_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Prediction)
    return sorted(found, key=lambda p: p.id)


def test_every_record_ends_once_and_nothing_is_paid_twice(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    server = scripted_server(count)
    made = run(server, tmp_path, 40)
    assert [p.output for p in made] == [f"item {k}-5" for k in range(40)]
    assert server.stats()["calls"] == 120
    assert run(server, tmp_path, 40) == made
    assert server.stats()["calls"] == 120, "the second run was replayed"
    assert [p.output for p in run(server, tmp_path, 40, turns=4)] == [f"item {k}-7" for k in range(40)]
    assert server.stats()["calls"] == 160, "only the new turn was paid for"


async def last_first(row: Prediction, generate: Generate, config: Config) -> list[Prediction]:
    """The sooner the later the record, by more than a while; two rows of each."""
    await asyncio.sleep(0.05 * (20 - int(row.id[1:])))
    return [row, replace(row, output="again")]


def test_rows_come_in_the_order_of_their_records(ray_cluster: None, tmp_path: Path) -> None:
    import ray
    import ray.data

    door = Door((Target("http://127.0.0.1:9/v1", "m"),), str(tmp_path), "test")
    given = ray.data.from_arrow(to_table(rows(20), Prediction))
    made = rollout(given, last_first, Config(0), door, rows_in=Prediction, rows_out=Prediction)
    found = from_table(pa.concat_tables(ray.get(made.to_arrow_refs())), Prediction)
    assert [(p.id, p.output) for p in found] == [(row.id, text) for row in rows(20) for text in ("", "again")]


def test_one_bad_row_voids_none_of_its_neighbours(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    def answer(messages: Sequence[Message], sampling: Sampling) -> str | Completion:
        bad = messages[0].content == "item 7" and len(messages) > 1
        return Completion("", "content_filter", Usage(3, 0)) if bad else count(messages, sampling)

    server = scripted_server(answer)
    made = run(server, tmp_path, 20)
    assert [p.output for p in made if p.output != ""] == [f"item {k}-5" for k in range(20) if k != 7]
    assert run(server, tmp_path, 20) == made
    assert max(server.stats()["requests"].values()) <= 2


def test_many_records_are_under_way_at_once_and_no_more_than_allowed(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    server = scripted_server(count, latency_s=0.1)
    run(server, tmp_path, 48, turns=1, in_flight=12)
    assert 10 <= server.stats()["most_at_once"] <= 24, "two blocks of twelve at most"


@pytest.mark.parametrize(
    ("server_options", "door_options", "error"),
    [({"key": "right"}, {}, TeacherDenied), ({}, {"model": "gpt-9"}, TeacherUnknownModel)],
)
def test_a_teacher_that_cannot_be_used_stops_the_run_with_its_own_error(
    ray_cluster: None, scripted_server: Any, tmp_path: Path,
    server_options: dict[str, Any], door_options: dict[str, Any], error: type,
) -> None:  # fmt: skip
    with pytest.raises(Exception, match=error.__name__) as raised:
        run(scripted_server(count, **server_options), tmp_path, 4, **door_options)
    assert type(cause_of(raised.value)) is error


def test_an_error_of_another_kind_is_not_taken_for_ours() -> None:
    assert cause_of(ValueError("x")) is None
    try:
        try:
            raise TeacherDenied("no")
        except TeacherDenied as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        assert isinstance(cause_of(outer), TeacherDenied)
