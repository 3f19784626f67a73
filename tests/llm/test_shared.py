"""One limiter for all runs on a cluster that use an endpoint with the same key, on real Ray."""

import asyncio
import time

import pytest

from cp_ray.llm.door import Door, Target
from cp_ray.llm.limiter import Limits, Report
from cp_ray.llm.shared import Shared, limiter_name
from cp_ray.teacher import Teacher, Terms

URL, KEY = "http://provider/v1", "sk-a-key-that-nobody-may-ever-read"


def test_a_limiter_is_an_endpoint_s_a_model_s_and_a_key_s() -> None:
    name = limiter_name(URL, "m", KEY)
    assert name == limiter_name(URL + "/", "m", KEY)
    others = [limiter_name("http://other/v1", "m", KEY), limiter_name(URL, "n", KEY), limiter_name(URL, "m", None)]
    assert len({name, *others}) == 4
    assert all(KEY[k : k + 6] not in name for k in range(len(KEY) - 5))


def names() -> list[str]:
    """Of all actors that have one; nobody is asked, which would keep it."""
    from ray.util import list_named_actors

    return [actor["name"] for actor in list_named_actors(all_namespaces=True)]


def test_runs_meet_at_one_limiter_which_ends_after_the_last(ray_cluster: None) -> None:
    one, two = (Shared("test-meet", run, Limits(rpm), lingers_s=1.0) for run, rpm in (("a", 600), ("b", 300)))

    async def renewed(shared: Shared) -> float:
        lease = await shared.renew(Report(shared.run, 0.0, 0, 99, 0, 0, 0, 1, run=shared.run, told=shared.told))
        return lease.limit[0]

    assert asyncio.run(renewed(one)) == 10.0
    assert asyncio.run(renewed(two)) == 5.0, "the smaller holds for both"
    assert one.actor()._actor_id == two.actor()._actor_id
    assert one.others() == [Limits(300)]
    deadline = time.monotonic() + 60
    while "test-meet" in names() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "test-meet" not in names()
    assert asyncio.run(renewed(one)) == 10.0, "made again by the next who asks"


def test_limits_that_runs_do_not_agree_on_are_told(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Teacher(URL, "m", Terms(Limits(rpm=500)), "nowhere") as first:
        first.door("dialogue")
        assert capsys.readouterr().err == ""
        other = Door((Target(URL, "m"),), "elsewhere", "dialogue", limits=Limits(rpm=300), run="other").limiters()[0]
        asyncio.run(other.renew(Report("w", 0.0, 0, 99, 0, 0, 0, 1, run="other", told=other.told)))
        first.door("extract")
        first.door("verify")
    said = capsys.readouterr().err
    assert said == (
        "rpm: another run on this cluster says 300 a minute for m with the same key, this one 500 a minute; while both "
        "go on they share the smaller\n"
    )
