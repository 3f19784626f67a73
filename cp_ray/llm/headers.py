"""What a provider's headers say of its limits: OpenAI's `x-ratelimit-*`, and `Retry-After` in its three spellings."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cp_ray.llm.limiter import Shown

__all__ = ["retry_after", "seconds", "shown_limits"]

_LONGEST_S = 600.0
# A slower rate than one a day is no limit that anyone means.
_SLOWEST = 1 / 86400
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait (ten minutes at most), or None if it does not say."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            wait = float(text) * unit
        except ValueError:
            wait = _until(text)
        if 0 <= wait < float("inf"):
            return min(wait, _LONGEST_S)
    return None


def shown_limits(headers: Mapping[str, str]) -> Shown:
    """The rates that the headers show.

    A limit is meant a minute, except that some are a day's: then what is gone takes longer to come back than a
    minute's limit would. The slower of the two readings holds.
    """
    return Shown(_rate(headers, "requests"), _rate(headers, "tokens"))


def seconds(text: str) -> float | None:
    """Seconds from `6m0s`, `850ms`, `1.5s` or a plain number."""
    parts = _PART.findall(text.strip())
    if parts and "".join(n + u for n, u in parts) == text.strip():
        return sum(float(n) * _UNITS[u] for n, u in parts)
    return _number(text)


def _rate(headers: Mapping[str, str], kind: str) -> float | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
    if limit is None or limit / 60 < _SLOWEST:
        return None
    left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
    reset = seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
    # Short times are rounded too coarsely to tell anything.
    if left is not None and reset is not None and reset >= 1.0 and left < limit:
        return max(_SLOWEST, min(limit / 60, (limit - left) / reset))
    return limit / 60


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):  # the library's own, on what is no date
        return -1.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
