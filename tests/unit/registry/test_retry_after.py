"""What `Retry-After` says, in every shape that servers give it."""

from __future__ import annotations

import pytest

from stagefleet.registry.http.responses import retry_after_seconds
from stagefleet.registry.http.waits import span_text

NOW = 1_800_000_000
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # NOW
NEVER = 1e10


def asked(value: str, *, date: str | None = None) -> float | None:
    headers = {"Retry-After": value} | ({} if date is None else {"Date": date})
    return retry_after_seconds(headers, clock=lambda: NOW)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("0000000000000000000120", 120),
        ("1.5", 1.5),
        ("7, 30", 7),
        ("315360000", 315360000),
        ("999999999", 999999999),
        ("1000000000", 1000000000),
        (str(NOW + 30), 30),
        (f"{NOW + 30}.25", 30.25),
        (str((NOW + 30) * 1000), 30),
        (str((NOW + 30) * 1000 + 500), 30.5),
        (str((NOW + 30) * 10**6), 30),
        (str((NOW + 30) * 10**9), 30),
        (str(NOW - 30), 0),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100),
        ("Fri, 15 Jan 2027 10:01:40 +0200", 100),
        ("Fri, 15 Jan 2027 08:01:40 -0000", 100),
        ("Friday, 15-Jan-27 08:01:40 GMT", 100),
        ("Fri Jan 15 08:01:40 2027", 100),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
    ],
)
def test_seconds_points_in_time_and_dates_are_read(value: str, seconds: float):
    """R7, W1: a number that can only be a point in time is one, in any unit; so is a date in any format."""
    assert min(seconds, NEVER) == asked(value)


@pytest.mark.parametrize(
    "value",
    [
        "99999999999",
        "100000000000",
        "9" * 21,
        "9" * 300,
        "9" * 5000,
        "0" * 300 + "9" * 300,
        "9" * 20 + ".5",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
    ids=lambda value: f"{value[:10]} of {len(value)}",
)
def test_what_never_ends_is_a_number_that_can_be_reckoned_with(value: str):
    """R7: hundreds of digits and the last of all years are a wait of centuries, and no overflow."""
    assert NEVER == asked(value)


@pytest.mark.parametrize(
    "value",
    [
        *("", "-5", "-1e300", "nan", "NaN", "inf", "Infinity", "1e3", "0x10", "+5", "12 s", "soon", "1.2.3"),
        *(
            "\u0663\u0660",
            "Fri, 99 Foo 9999",
            "9999999999999 GMT",
            ",",
            "\x00",
        ),
        "Fri, 15 Jan 2027 08:01:40 +99999999999999999999",
        "9" * 5000 + " Jan 2027 08:01:40 GMT",
    ],
    ids=lambda value: value[:20].encode("ascii", "replace").decode(),
)
def test_what_makes_no_sense_asks_for_nothing(value: str):
    """R7: negative numbers, NaN and words are no wait: the client's own back-off counts."""
    assert asked(value) is None


@pytest.mark.parametrize("value", ["Fri, 15 Jan 2027 09:01:40 GMT", str(NOW + 3700)])
def test_the_clock_of_the_answer_counts(value: str):
    """R7: a date is judged by the server's own clock, here an hour ahead of ours."""
    assert 3700 == asked(value)
    assert 100 == asked(value, date="Fri, 15 Jan 2027 09:00:00 GMT")
    assert 3700 == asked(value, date="nonsense")


def test_an_answer_without_the_header_asks_for_nothing():
    assert retry_after_seconds({"Date": DATE}, clock=lambda: NOW) is None


def test_spans_are_said_in_words():
    assert ["7 s", "7200 s (2.0 hours)", "604800 s (7.0 days)", "more than a year"] == [
        span_text(seconds) for seconds in (7, 7200, 604800, NEVER)
    ]
