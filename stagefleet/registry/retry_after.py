"""Parser of `Retry-After`: the wait that a server asks for (RFC 9110, 10.2.3), in its many variants."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC

__all__ = ["retry_after_seconds", "span_text"]

# Some send fractions, and proxies join the headers of two servers by a comma: the first counts.
_NUMBER = re.compile(r"(?P<whole>[0-9]+)(?P<fraction>\.[0-9]+)?\s*(?:,.*)?", re.DOTALL)
_MOST_DIGITS = 20
_UNITS = (1, 10**3, 10**6, 10**9)
"""Units per second of timestamps: Docker Hub sends seconds (hub-feedback #2459), others milliseconds."""
_NEVER_SECONDS = 1e10
"""Upper limit: three centuries, small enough that sums of pauses do not overflow."""
_YEAR_SECONDS = 365 * 24 * 3600
_NEAR_SECONDS = 10 * _YEAR_SECONDS
"""A longer wait is a timestamp instead, if as a timestamp it is nearer than this."""


def retry_after_seconds(
    headers: Mapping[str, str], *, clock: Callable[[], float] = time.time
) -> float | None:
    """Read how long a response asks to wait.

    A date, and a number that can only be a timestamp, count from the response's own `Date`: the two clocks
    may differ.

    Args:
        headers: The response's headers, with names in any case.
        clock: Returns seconds since 1970, for a response without a `Date`.

    Returns:
        Seconds from now, 0 to 1e10; None if the header is missing or malformed.
    """
    value = headers.get("Retry-After", "").strip()
    number = _NUMBER.fullmatch(value)
    if number is None:
        until = _since_1970(value)
        return None if until is None else _bounded(until - _now(headers, clock))
    digits = number["whole"].lstrip("0")
    if len(digits) > _MOST_DIGITS:
        return _NEVER_SECONDS  # int() refuses thousands of digits
    seconds = int(digits or 0) + float(number["fraction"] or 0)
    if seconds <= _NEAR_SECONDS:
        return seconds
    now = _now(headers, clock)
    near = (seconds / unit - now for unit in _UNITS if abs(seconds / unit - now) <= _NEAR_SECONDS)
    return _bounded(next(near, seconds))


def span_text(seconds: float) -> str:
    """Format a duration.

    >>> span_text(12.3), span_text(5400), span_text(1e10)
    ('12 s', '5400 s (1.5 hours)', 'more than a year')
    """
    if seconds > _YEAR_SECONDS:
        return "more than a year"
    for name, length in (("days", 24 * 3600), ("hours", 3600)):
        if seconds >= length * 1.5:
            return f"{seconds:.0f} s ({seconds / length:.1f} {name})"
    return f"{seconds:.0f} s"


def _now(headers: Mapping[str, str], clock: Callable[[], float]) -> float:
    sent_at = _since_1970(headers.get("Date", ""))
    return clock() if sent_at is None else sent_at


def _since_1970(date: str) -> float | None:
    """Parse an HTTP date (RFC 9110, 5.6.7), in UTC even if it does not say so."""
    try:
        parsed = email.utils.parsedate_to_datetime(date)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _NEVER_SECONDS)
