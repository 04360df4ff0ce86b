"""Waits as they are said to whoever follows a run."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from stagefleet.fleet.waits import WaitReporter, describe_wait
from stagefleet.runs.models import Run, RunSpec, RunState, Wait, WaitKind, WaitReason

LIMITED = WaitReason(host="registry.example.com", text="429 Too Many Requests")
DOWN = WaitReason(host="registry.example.com", text="503 Service Unavailable")
HERE = datetime(2026, 3, 4, 14, 0, 0).astimezone().timestamp()


def run_at(now, *waits):
    return Run("r", RunSpec(operation="copy_stage"), RunState.RUNNING, now_at=now, waits=waits)


def retry(until, reason=LIMITED, count=12):
    return Wait(WaitKind.RETRY, reason, until, count)


@pytest.mark.parametrize(
    ("wait", "line"),
    [
        (
            retry(190),
            "12 items wait for registry.example.com (429 Too Many Requests), next try at 14:03:10",
        ),
        (
            retry(190, count=1),
            "1 item waits for registry.example.com (429 Too Many Requests), next try at 14:03:10",
        ),
        (
            retry(190, WaitReason(text="others have it"), 1200),
            "1,200 items wait (others have it), next try at 14:03:10",
        ),
        (
            Wait(WaitKind.PAUSE, LIMITED, 190),
            "a worker waits for registry.example.com (429 Too Many Requests), until 14:03:10 at the latest",
        ),
        (
            Wait(WaitKind.CALLBACK, WaitReason(host="ci.example", text="answered 503"), 190, 3),
            "3 outcomes wait for ci.example (answered 503), next call at 14:03:10",
        ),
        (
            Wait(WaitKind.CALLBACK, WaitReason(host="ci.example", text="answered 503"), 190, 0),
            "the end of the run waits for ci.example (answered 503), next call at 14:03:10",
        ),
        (
            retry(3 * 24 * 3600, WaitReason()),
            "12 items wait for another attempt, next try at 2026-03-07 14:00:00",
        ),
    ],
)
def test_a_wait_is_one_line_with_this_hosts_time_whatever_the_ledgers_clock_says(wait, line):
    """R7: whoever follows a run is told for whom it waits and until when."""
    assert line == describe_wait(wait, run_at(0, wait), clock=lambda: HERE)


class Following:
    """A reporter whose time a test moves, and when it said something."""

    def __init__(self):
        self.now = 100.0
        self.said: list[tuple[float, str]] = []
        self.reporter = WaitReporter(lambda line: self.said.append((self.now, line)), clock=lambda: self.now)

    def look_until(self, second, waits_at):
        while self.now < second:
            self.now += 1
            self.reporter.report(run_at(self.now, *waits_at(self.now)))

    @property
    def seconds(self):
        return [second for second, _ in self.said]


@pytest.fixture
def following():
    return Following()


def test_nothing_is_said_while_outcomes_come(following):
    """R7: a run that moves is no run that waits."""
    for _ in range(50):
        following.look_until(following.now + 2, lambda now: [retry(now + 50)])
        following.reporter.note_progress()
    assert [] == following.said


def test_a_wait_is_said_once_when_the_run_stands_still(following):
    """R7: one line a change, and no flood."""
    following.look_until(160, lambda _: [retry(170, count=12)])
    assert [103] == following.seconds
    assert re.search(r"12 items wait .*, next try at \d\d:\d\d:\d\d$", following.said[0][1])


def test_the_next_wait_is_said_after_the_one_that_is_over(following):
    """R7: each try that ends in another wait is news."""
    following.look_until(400, lambda now: [retry(200 if now < 200 else 300 if now < 300 else 500)])
    assert [103, 200, 300] == following.seconds


def test_waits_that_change_all_the_time_are_said_each_ten_seconds_at_most(following):
    """R7: a thousand items with reasons and ends of their own are no thousand lines."""
    following.look_until(200, lambda now: [retry(now + 1, LIMITED if now % 2 else DOWN)])
    assert len(following.said) <= 10
    assert all(
        later - earlier >= 10
        for earlier, later in zip(following.seconds, following.seconds[1:], strict=False)
    )


def test_a_run_that_is_still_being_handed_in_is_said_to_be_so_once(following):
    """R7: whoever watches a run whose client is slow, or gone under its key, knows what it waits for."""
    for _ in range(20):
        following.now += 1
        following.reporter.report(
            Run("r", RunSpec(operation="copy_stage"), RunState.SUBMITTING, now_at=following.now)
        )
    assert [(103, "run r waits for the client that starts it to hand in all of its items")] == following.said


def test_each_pause_of_a_run_is_said_once_with_what_ends_it(following):
    def report(state, until):
        while following.now < until:
            following.now += 1
            following.reporter.report(Run("r", RunSpec(operation="copy_stage"), state, now_at=following.now))

    for start in (100, 200):
        report(RunState.PAUSED, start + 50)
        report(RunState.RUNNING, start + 100)
    assert [103, 201] == following.seconds
    line = "run r is paused: resume it with stagefleet runs resume r"
    assert [line, line] == [said for _, said in following.said]


def test_waits_of_several_kinds_are_said_each(following):
    """R7: a pause in a worker does not hide items that wait."""
    following.look_until(110, lambda _: [retry(200), Wait(WaitKind.PAUSE, DOWN, 200)])
    assert [103, 103] == following.seconds
