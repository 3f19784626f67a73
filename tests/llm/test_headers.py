import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.llm.headers import retry_after, seconds, shown_limits
from cp_ray.llm.limiter import Shown


@pytest.mark.parametrize(
    ("text", "wanted"), [("6m0s", 360), ("850ms", 0.85), ("1.5s", 1.5), ("12", 12), ("1h2m", 3720), ("soon", None)]
)
def test_times(text: str, wanted: float | None) -> None:
    assert seconds(text) == wanted


def test_a_wait_in_its_three_spellings() -> None:
    assert retry_after({"retry-after-ms": "20", "retry-after": "1"}) == pytest.approx(0.02)
    assert retry_after({"retry-after": "3"}) == 3
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    assert retry_after({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after({}) is None
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "1e9"}) == 600


def test_a_limit_is_a_minutes_or_a_days() -> None:
    minute = {"x-ratelimit-limit-requests": "6000", "x-ratelimit-remaining-requests": "5999",
              "x-ratelimit-reset-requests": "10ms", "x-ratelimit-limit-tokens": "30000"}  # fmt: skip
    assert shown_limits(minute) == Shown(100.0, 500.0)
    day = {"x-ratelimit-limit-requests": "10000", "x-ratelimit-remaining-requests": "9999",
           "x-ratelimit-reset-requests": "8.64s"}  # fmt: skip
    assert shown_limits(day).requests_per_s == pytest.approx(10000 / 86400)
    assert shown_limits({}) == Shown()


NAMES = ("retry-after", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
         "x-ratelimit-reset-requests", "x-ratelimit-limit-tokens")  # fmt: skip


NUMBERS = st.one_of(st.floats().map(str), st.integers(0, 10000).map(str), st.sampled_from(["inf", "nan", "5e-324"]))
CLOCK = st.from_regex(r"[A-Z][a-z]{2}, \d{1,9} [A-Z][a-z]{2} \d{1,9} \d+:\d+:\d+ GMT")
DATES = st.datetimes().map(format_datetime) | CLOCK


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12) | NUMBERS | DATES))
def test_nothing_that_a_server_sends_breaks_it(headers: dict[str, str]) -> None:
    wait = retry_after(headers)
    assert wait is None or 0 <= wait <= 600
    for rate in (shown_limits(headers).requests_per_s, shown_limits(headers).tokens_per_s):
        assert rate is None or (rate > 0 and math.isfinite(rate))
