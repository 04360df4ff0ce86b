"""Notices about the waits of a run: for which host, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from stagefleet.runs.models import Run, RunState
from stagefleet.runs.waits import Wait, WaitKind, WaitReason

__all__ = ["WaitReporter", "describe_wait"]

_QUIET_SECONDS = 3.0
"""How long a run has no outcome before its waits are reported."""
_AGAIN_SECONDS = 10.0
"""The minimum time before a wait of the same kind is reported again, whatever changes."""
_DAY_SECONDS = 24 * 3600


def describe_wait(wait: Wait, run: Run, *, clock: Callable[[], float] = time.time) -> str:
    """Describe a wait in one line.

    Args:
        wait: The wait.
        run: The run, as it was when the wait was read.
        clock: Returns this host's seconds since 1970; the line has this host's time of day.

    An example is `12 items wait for r.test (429 Too Many Requests), next try at 14:03:10`.
    """
    at = _time_of_day(clock(), wait.until - run.now_at)
    match wait.kind:
        case WaitKind.RETRY:
            who = f"{wait.count:,} items wait" if wait.count != 1 else "1 item waits"
            return f"{who} {wait.reason}, next try at {at}"
        case WaitKind.PAUSE:
            return f"a worker waits {wait.reason}, until {at} at the latest"
        case WaitKind.CALLBACK:
            who = f"{wait.count:,} outcomes wait" if wait.count != 1 else "1 outcome waits"
            return f"{who if wait.count else 'the end of the run waits'} {wait.reason}, next call at {at}"


def _time_of_day(now: float, seconds: float) -> str:
    """Format the time of day in a number of seconds, with the date unless it is soon."""
    at = datetime.fromtimestamp(now + seconds).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}" if seconds >= _DAY_SECONDS else f"{at:%H:%M:%S}"


@dataclass(frozen=True, slots=True)
class _Said:
    """A reported wait: its reason, its end on the ledger's clock, and the time of the report on ours."""

    reason: WaitReason
    until: float
    at: float


class WaitReporter:
    """Report the waits of a run without outcomes, each wait once.

    Args:
        say: Called with one line per wait.
        clock: Returns monotonic seconds.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._moved_at = clock()
        self._said: dict[WaitKind, _Said] = {}
        self._has_said_submitting = False

    def note_progress(self) -> None:
        """Record that the run has an outcome."""
        self._moved_at = self._clock()

    def report(self, run: Run) -> None:
        """Report new waits; called about once a second while the run has no outcome."""
        now = self._clock()
        if now - self._moved_at < _QUIET_SECONDS:
            return
        if run.state is RunState.SUBMITTING and not self._has_said_submitting:
            self._has_said_submitting = True
            self._say(f"run {run.id} waits for the client that starts it to hand in all of its items")
        for wait in run.waits:
            said = self._said.get(wait.kind)
            if said is None or (now - said.at >= _AGAIN_SECONDS and _is_news(wait, said, run)):
                self._said[wait.kind] = _Said(wait.reason, wait.until, now)
                self._say(describe_wait(wait, run))


def _is_news(wait: Wait, said: _Said, run: Run) -> bool:
    """Return True if the reason is new, or the reported wait is over."""
    return wait.reason != said.reason or run.now_at >= said.until
