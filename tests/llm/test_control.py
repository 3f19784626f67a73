"""The cluster's rate, money and failures, on real Ray; the pure parts without it."""

import asyncio
import contextlib
import math
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import BudgetReached, ConfigError, TooManyFailures
from cp_ray.llm.budget import SILENT_S, Price, Purse, Spending, parse_budget
from cp_ray.llm.concurrency import Concurrency
from cp_ray.llm.control import Control, Rules, State, control
from cp_ray.llm.gate import Gate
from cp_ray.llm.limiter import Limits
from cp_ray.llm.prices import read_prices
from cp_ray.llm.shared import Shared
from cp_ray.records import Message


def gate_of(actor: Any = None, *, most: int, rpm: int | None = None, run: str = "") -> Gate:
    """Of a worker in this process; tests with the same limit share a limiter, if they are near each other."""
    return Gate(actor or control(Rules()), Shared(f"test-{rpm}", run, Limits(rpm), lingers_s=5.0), most=most)


async def spend(gate: Gate, calls: int, *, usd: float = 0.0, seconds: float = 0.0, failed: str | None = None) -> int:
    """So many calls at once; gives how many went."""
    went = 0

    async def one() -> None:
        nonlocal went
        await gate.enter(10, usd)
        went += 1
        await asyncio.sleep(seconds)
        gate.answered(seconds, None)
        gate.leave(usd, usd)
        gate.ended(failed)

    results = await asyncio.gather(*(one() for _ in range(calls)), return_exceptions=True)
    errors = [r for r in results if isinstance(r, BaseException)]
    if errors:
        raise errors[0]
    return went


def test_workers_share_one_limit(ray_cluster: None) -> None:
    async def run() -> float:
        gates = [gate_of(most=64, rpm=1200) for _ in range(2)]
        await asyncio.gather(*(spend(gate, 1) for gate in gates))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(spend(gate, 30) for gate in gates))
        took = asyncio.get_running_loop().time() - began
        await asyncio.gather(*(gate.close() for gate in gates))
        return took

    # 20 a second for both together after half a second's burst; with a limit each, 60 would take half of that.
    assert asyncio.run(run()) >= 2.3


def test_the_limiters_death_neither_loses_a_call_nor_makes_a_burst(ray_cluster: None) -> None:
    import ray

    async def run() -> list[float]:
        gates = [gate_of(most=500, rpm=3000) for _ in range(2)]
        actor = gates[0]._limiter.actor()
        went: list[float] = []
        loop = asyncio.get_running_loop()

        async def one(gate: Gate) -> None:
            await gate.enter(1)
            went.append(loop.time())
            gate.answered(0.0, None)
            gate.leave(0.0, 0.0)

        calls = [asyncio.create_task(one(gates[k % 2])) for k in range(400)]
        for _ in range(2):
            await asyncio.sleep(1.0)
            os.kill(await asyncio.to_thread(lambda: ray.get(actor.pid.remote())), signal.SIGKILL)
        await asyncio.gather(*calls)
        await asyncio.gather(*(gate.close() for gate in gates))
        return went

    went = asyncio.run(run())
    assert len(went) == 400
    # 50 a second, with at most a second's worth on top in any window of a second.
    for at in went:
        assert sum(at <= other < at + 1.0 for other in went) <= 100


def test_a_worker_that_had_nothing_to_do_for_a_while_is_counted_once(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.llm.gate._IDLE_S", 0.1)

    async def run() -> tuple[float, tuple[str, str] | None]:
        actor = control(Rules(budget=1.0, max_failures=0.5))
        gate = gate_of(actor, most=16)
        await spend(gate, 30, usd=0.01, seconds=0.01, failed="refused")
        while gate._renewals is not None:
            await asyncio.sleep(0.05)
        await spend(gate, 31, usd=0.01, seconds=0.01)
        await gate.close()
        return (await actor.renew.remote(State("another", 0))).spent, await actor.verdict.remote()

    spent, verdict = asyncio.run(run())
    assert spent == pytest.approx(0.61)
    assert verdict is None, "30 of 61 calls failed, and not 60 of 91"


def test_what_a_fallback_comes_to_long_after_the_first_server_is_told(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.llm.gate._IDLE_S", 0.1)

    async def run() -> tuple[str, str] | None:
        actor = control(Rules(max_failures=0.5))
        gate = gate_of(actor, most=16)
        await gate.enter(10)
        gate.leave(0.0, 0.0)
        while gate._renewals is not None:
            await asyncio.sleep(0.05)
        gate.ended("refused with status 400")
        await gate.report()
        verdict: tuple[str, str] | None = await actor.verdict.remote()
        await gate.close()
        return verdict

    kind, said = asyncio.run(run()) or ("", "")
    assert (kind, said[:35]) == ("TooManyFailures", "max-failures: 1 of 1 calls failed (")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_budget_is_used_up_and_never_passed(ray_cluster: None, workers: int) -> None:

    async def run() -> tuple[float, list[BaseException]]:
        actor = control(Rules(budget=1.0, spent_before=0.25))
        gates = [gate_of(actor, most=16) for _ in range(workers)]
        ends = await asyncio.gather(
            *(spend(gate, 60, usd=0.02, seconds=0.02) for gate in gates), return_exceptions=True
        )
        spent = sum(gate._spent for gate in gates)
        await asyncio.gather(*(gate.close() for gate in gates))
        return spent, [end for end in ends if isinstance(end, BaseException)]

    spent, ends = asyncio.run(run())
    assert {type(end) for end in ends} == {BudgetReached}
    assert "budget: 1.00 USD" in str(ends[0])
    assert 0.70 <= spent <= 0.75 + 1e-9


def test_a_dear_call_in_front_of_cheap_ones_stops_the_run_and_does_not_block_it(ray_cluster: None) -> None:
    async def run() -> list[Any]:
        gate = gate_of(control(Rules(budget=1.0, spent_before=0.90)), most=16)
        ends = await asyncio.gather(*(spend(gate, 1, usd=usd) for usd in (0.5, 0.05, 0.05)), return_exceptions=True)
        await gate.close()
        return list(ends)

    assert {type(end) for end in asyncio.run(asyncio.wait_for(run(), 60))} == {BudgetReached}


def test_a_worker_that_died_does_not_keep_a_run_from_its_end() -> None:
    now = 0.0
    actor = Control(Rules(budget=1.0))
    actor._purse.clock = lambda: now
    actor.renew(State("dead", 0, money=Spending(0.1, 0.0, 0.2, 0.4)))
    assert actor.renew(State("dead", 2, money=Spending(0.1, 0.4))).grant == pytest.approx(0.4)
    waiting = State("other", 0, money=Spending(0.0, 0.0, 0.2, 0.2))
    assert not actor.renew(waiting).stopping, "what the first one has may be left"
    now += SILENT_S - 1
    assert not actor.renew(waiting).stopping
    assert actor.verdict() is None
    now += 2
    orders = actor.renew(waiting)
    assert (orders.grant, orders.stopping) == (0.0, True)
    assert orders.spent == pytest.approx(0.9)
    kind, said = actor.verdict() or ("", "")
    assert kind == "BudgetReached"
    assert "(0.9000 are spent, of which 0.8000 were with workers that died)" in said


def test_whoever_was_silent_and_comes_back_is_taken_at_their_word() -> None:
    now = 0.0
    purse = Purse(1.0, clock=lambda: now)
    assert purse.grant("a", Spending(0.1, 0.2, 0.1, 0.1)) == pytest.approx(0.3)
    now += SILENT_S + 1
    assert purse.grant("b", Spending(0.0, 0.0, 0.4, 0.4)) == 0.4, "the rest of the budget is nobody's but the living's"
    assert purse.spent() == pytest.approx(0.6)
    assert purse.lost() == pytest.approx(0.5)
    purse.grant("a", Spending(0.3, 0.0))
    assert purse.spent() == pytest.approx(0.3)
    assert purse.lost() == 0.0
    purse.settle("a")
    assert purse.spent() == pytest.approx(0.3)


def test_too_many_failures_stop_the_run(ray_cluster: None) -> None:
    async def run() -> None:
        gate = gate_of(control(Rules(max_failures=0.2)), most=8)
        try:
            await spend(gate, 40)
            await spend(gate, 400, seconds=0.05, failed="gave up: status 500")
        finally:
            await gate.close()

    with pytest.raises(TooManyFailures, match=r"of \d+ calls failed \(\d+ gave up: status 500\)"):
        asyncio.run(run())


LOST = "gave up: time-out"


@pytest.mark.parametrize(
    ("calls", "failures", "replayed", "share", "said"),
    [
        (
            49,
            {LOST: 49},
            0,
            0.5,
            "max-failures: 49 of 49 calls failed (49 gave up: time-out), more than a share of 0.5",
        ),
        (1, {LOST: 1}, 0, 0.5, "max-failures: 1 of 1 calls failed"),
        (40, {LOST: 39}, 0, 0.5, "max-failures: 39 of 40 calls failed"),
        (40, {LOST: 20}, 0, 0.5, None),
        (5000, {LOST: 4900}, 0, 0.5, "max-failures: 4900 of 5000 calls failed"),
        (49, {"content_filter": 49}, 0, 0.5, None),
        (3, {LOST: 3}, 97, 0.5, None),
        (49, {LOST: 49}, 0, 1.0, None),
        (0, {}, 0, 0.5, None),
    ],
)
def test_a_step_with_hardly_an_answer_is_not_done_however_few_it_asked_for(
    calls: int, failures: dict[str, int], replayed: int, share: float, said: str | None
) -> None:
    it = Control(Rules(max_failures=share))
    it.renew(State("before", 0, 10_000))
    assert it.verdict() is None
    it.leave("before")  # what an earlier step was answered is of no matter
    it.renew(State("now", 0, calls, failures, replayed))
    found = it.verdict()
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == "TooManyFailures"
        assert found[1].startswith(said)


def test_what_happens_stands_in_ray_s_metrics(ray_cluster: None) -> None:
    import ray

    async def run() -> None:
        gate = gate_of(control(Rules(run="metrics-test", max_failures=1.0)), most=8)
        await spend(gate, 5, seconds=1.2)
        await gate.close()

    asyncio.run(run())
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    port = next(node["MetricsExportPort"] for node in nodes if node["Alive"])
    deadline, text = time.monotonic() + 60, ""
    while 'run="metrics-test"' not in text and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            text = reply.read().decode()
        time.sleep(0.5)
    lines = [line for line in text.splitlines() if "cp_ray_" in line and 'run="metrics-test"' in line]
    assert {name for name in ("calls", "failures", "refusals", "under_way", "spent_usd", "allowed_per_s")
            if any(f"cp_ray_{name}" in line for line in lines)} >= {"calls", "under_way", "spent_usd"}  # fmt: skip


MOVES = st.tuples(st.integers(0, 3), st.floats(0.01, 2), st.booleans(), st.booleans(), st.sampled_from([0.1, 40.0]))


@given(st.lists(MOVES, max_size=80))
def test_what_is_spent_reserved_and_granted_never_passes_the_budget(
    moves: list[tuple[int, float, bool, bool, float]],
) -> None:
    now = 0.0
    purse = Purse(10.0, clock=lambda: now)
    grants, reserved, spent = [0.0] * 4, [0.0] * 4, [0.0] * 4
    for who, cost, ends, tells, seconds in moves:
        now += seconds
        if ends and reserved[who]:
            spent[who], reserved[who] = spent[who] + reserved[who] * 0.7, 0.0
        elif cost <= grants[who]:
            grants[who] -= cost
            reserved[who] += cost
        if tells:
            grants[who] = purse.grant(str(who), Spending(spent[who], reserved[who], cost, cost))
        assert sum(grants) + sum(reserved) + sum(spent) <= 10.0 + 1e-9


@given(st.floats(1e-9, 1.0), st.floats(-1e-15, 0.0))
def test_a_call_that_can_be_paid_for_is_granted_in_full(cost: float, trifle: float) -> None:
    assert Purse(10.0).grant("a", Spending(0.0, trifle, cost, cost)) >= cost


def test_a_price_bounds_what_a_call_costs() -> None:
    price = Price(1.0, 2.0)
    assert price.cost(1_000_000, 500_000) == 2.0
    assert price.most([Message("user", "日本" * 10)], 100) == pytest.approx((60 + 16 + 200) / 1e6)


@pytest.mark.parametrize(("text", "usd"), [("20usd", 20), ("$1.5", 1.5), ("3 USD", 3), ("0.01", 0.01)])
def test_amounts(text: str, usd: float) -> None:
    assert parse_budget(text) == usd


@pytest.mark.parametrize("text", ["", "0", "-1usd", "20eur", "nan", "inf", "lots"])
def test_wrong_amounts_are_told_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="budget: must be an amount of money"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"m": ', '{"m": {"prompt": 1}}'])
def test_a_wrong_table_of_prices_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^prices: ") as raised:
        read_prices(str(tmp_path / "prices.json"))
    assert "\n" not in str(raised.value)


def test_concurrency_follows_a_server_that_queues() -> None:
    """The server works on 16 at once, 0.3 s each; whatever is more waits inside it."""
    it = Concurrency(256)
    for _ in range(16):
        it.answered(0.3, 16)
    for _ in range(20_000):
        under_way = int(it.limit)
        it.answered(0.3 * max(1.0, under_way / 16), under_way)
    assert 16 <= it.limit <= 64


def test_concurrency_stays_where_latency_does() -> None:
    import random

    draw, it = random.Random(0), Concurrency(256)
    for _ in range(20_000):
        it.answered(0.3 * math.exp(0.4 * draw.gauss(0, 1)), int(it.limit))
        assert it.limit > 200
