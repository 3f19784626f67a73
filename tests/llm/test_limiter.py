import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import ConfigError
from cp_ray.llm.bucket import Bucket
from cp_ray.llm.limiter import FORGOTTEN_S, PROBE, Allowance, Lease, Limits, Report, Shown


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Provider:
    """A bucket of one second of its limit, which may change."""

    clock: Clock
    per_s: float
    level: float = 0.0
    at: float = 0.0
    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.level, self.at = self.per_s, self.clock.now

    def ask(self) -> bool:
        self.level = min(self.per_s, self.level + (self.clock.now - self.at) * self.per_s)
        self.at = self.clock.now
        if self.level < 1:
            self.refused.append(self.clock.now)
            return False
        self.level -= 1
        self.admitted.append(self.clock.now)
        return True


@dataclass
class Worker:
    """As many calls as its lease allows, for ever."""

    name: str
    clock: Clock
    waiting: int = 100
    through: int = 0
    refused: int = 0
    refused_now: int = 0
    answered: int = 0
    due: float = 0.0

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.clock)
        self.shown = Shown()

    def renew(self, allowance: Allowance) -> Lease:
        lease = self.bucket.lease
        report = Report(
            self.name, lease.share if lease else 0.0, lease.generation if lease else 0, self.waiting, self.through,
            self.refused, self.refused_now, self.answered, self.shown, learnt=lease.learnt if lease else None,
        )  # fmt: skip
        self.refused_now = 0
        new = allowance.renew(report)
        if lease is None or new.generation != lease.generation:
            self.through = 0
        self.bucket.renew(new)
        self.due = self.clock.now + new.next_s
        return new

    def send(self, provider: Provider) -> None:
        for _ in range(300):
            if self.bucket.take(1):
                return
            if provider.ask():
                self.answered += 1
                self.through += 1
            else:
                self.refused += 1
                self.refused_now += 1


def run(allowance: Allowance, workers: list[Worker], provider: Provider, clock: Clock, seconds: float) -> None:
    """In steps of 5 ms, each worker renewing when it is due."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 0.005
        for worker in workers:
            if clock.now >= worker.due:
                worker.renew(allowance)
            worker.send(provider)


def share(provider: Provider, clock: Clock, last_s: float) -> float:
    return sum(at > clock.now - last_s for at in provider.admitted) / last_s / provider.per_s


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_told_workers_use_the_whole_rate_and_are_never_refused(workers: int) -> None:
    clock = Clock()
    provider, allowance = Provider(clock, 100.0), Allowance(Limits(rpm=6000), clock)
    run(allowance, [Worker(str(k), clock) for k in range(workers)], provider, clock, 20)
    assert share(provider, clock, 15) > 0.98
    assert provider.refused == []


def test_tokens_bound_as_well() -> None:
    clock = Clock()
    worker, allowance = Worker("a", clock), Allowance(Limits(rpm=60_000, tpm=60_000), clock)
    spent, end = 0, clock.now + 20
    while clock.now < end:
        clock.now += 0.005
        if clock.now >= worker.due:
            worker.renew(allowance)
        while worker.bucket.take(150) == 0:
            spent += 150
    assert 0.98 < spent / 20_000 < 1.03


@pytest.mark.parametrize("told", [None, 60_000])
def test_an_untold_or_wrong_rate_is_learnt_from_refusals(told: int | None) -> None:
    clock = Clock()
    provider, allowance = Provider(clock, 100.0), Allowance(Limits(rpm=told), clock)
    run(allowance, [Worker(str(k), clock) for k in range(3)], provider, clock, 60)
    assert share(provider, clock, 50) > 0.93
    late = sum(at > clock.now - 55 for at in provider.refused)
    assert late < 0.03 * len(provider.admitted)


def test_headers_go_before_what_was_told_too_high() -> None:
    clock = Clock()
    provider, allowance = Provider(clock, 100.0), Allowance(Limits(rpm=60_000), clock)
    workers = [Worker(str(k), clock) for k in range(2)]
    for worker in workers:
        worker.shown = Shown(100.0)
    run(allowance, workers, provider, clock, 20)
    assert share(provider, clock, 15) > 0.98
    assert allowance.rates() == (100.0, math.inf)


@pytest.mark.parametrize("shown", [True, False])
def test_a_halved_limit_is_found_within_20_seconds(shown: bool) -> None:
    clock = Clock()
    provider, allowance = Provider(clock, 100.0), Allowance(Limits(rpm=6000), clock)
    workers = [Worker(str(k), clock) for k in range(2)]
    run(allowance, workers, provider, clock, 15)
    provider.per_s, provider.level = 50.0, 50.0
    if shown:
        for worker in workers:
            worker.shown = Shown(50.0)
    run(allowance, workers, provider, clock, 20)
    before = len(provider.refused)
    run(allowance, workers, provider, clock, 30)
    assert share(provider, clock, 30) > 0.9
    assert len(provider.refused) - before < 0.03 * 30 * 50


def test_late_refusals_count_once_for_a_generation() -> None:
    clock = Clock()
    allowance = Allowance(Limits(rpm=6000), clock)
    allowance.renew(Report("a", 0.0, 0, 9, 0, 0, 0, 0))
    clock.now += 5
    first = allowance.renew(Report("a", 1.0, 0, 9, 500, 9, 9, 400))
    assert first.generation == 1
    rate = allowance.learnt
    for k in range(5):
        clock.now += 0.1
        late = allowance.renew(Report("a", 1.0, 0, 9, 500, 10 + k, 1, 400))
        assert late.generation == 1
    assert allowance.learnt == pytest.approx(rate, rel=0.01)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_shares_never_sum_to_more_than_the_whole(seed: int, n: int) -> None:
    clock, draw = Clock(), random.Random(seed)
    allowance = Allowance(Limits(rpm=600), clock)
    held: dict[str, float] = {}
    heard: dict[str, float] = {}
    for _ in range(60):
        name = str(draw.randrange(n))
        clock.now += draw.random() * 0.1
        if draw.random() < 0.1:
            allowance.leave(name)
            held.pop(name, None)
            continue
        held = {k: v for k, v in held.items() if clock.now - heard[k] <= FORGOTTEN_S}
        heard[name], waiting = clock.now, draw.choice([0, 1, 50])
        held[name] = allowance.renew(Report(name, held.get(name, 0.0), 0, waiting, 0, 0, 0, 1)).share
        assert sum(held.values()) <= 1 + 1e-9


def test_a_restarted_allowance_makes_no_burst_and_remembers_what_was_learnt() -> None:
    clock = Clock()
    provider = Provider(clock, 100.0)
    workers = [Worker(str(k), clock) for k in range(4)]
    allowance = Allowance(Limits(), clock)
    run(allowance, workers, provider, clock, 30)
    learnt, refused = allowance.rates()[0], len(provider.refused)
    for _ in range(5):
        clock.now += 1.5  # as long as an actor takes to come back; the workers go on by their leases
        restarted = Allowance(Limits(), clock, restarted=True)
        run(restarted, workers, provider, clock, 4)
        assert restarted.rates()[0] == pytest.approx(learnt, rel=0.1)
        assert sum(w.bucket.lease.share for w in workers if w.bucket.lease) <= 1 + 1e-9
    assert len(provider.refused) - refused < 30
    assert share(provider, clock, 4) > 0.9


def test_a_lease_that_nobody_renews_runs_out() -> None:
    clock = Clock()
    worker, allowance = Worker("a", clock), Allowance(Limits(rpm=6000), clock)
    worker.renew(allowance)
    went = 0
    for _ in range(4000):
        clock.now += 0.005
        went += worker.bucket.take(1) == 0
    assert 400 < went <= 600


def test_few_calls_go_until_the_first_answer_shows_the_limits() -> None:
    clock = Clock()
    allowance = Allowance(Limits(), clock)
    leases = [allowance.renew(Report(str(k), 0.0, 0, 99, 0, 0, 0, 0)) for k in range(4)]
    assert [lease.in_flight for lease in leases] == [PROBE, PROBE // 2, PROBE // 3, PROBE // 4]
    assert allowance.renew(Report("0", 1.0, 0, 99, 1, 0, 0, 1)).in_flight is None


def test_a_pause_holds_everybody() -> None:
    clock = Clock()
    allowance = Allowance(Limits(rpm=6000), clock)
    one, other = Worker("a", clock), Worker("b", clock)
    one.renew(allowance)
    allowance.renew(Report("a", 1.0, 0, 9, 1, 1, 1, 0, pause_s=3.0))
    assert other.renew(allowance).pause_s == pytest.approx(3.0)
    assert other.bucket.take(1) == pytest.approx(3.0)
    clock.now += 3.01
    other.renew(allowance)
    assert other.bucket.take(1) < 0.2


@pytest.mark.parametrize("limits", [{"rpm": 0}, {"tpm": -5}])
def test_a_limit_of_nothing_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Limits(**limits)
