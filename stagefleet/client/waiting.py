"""Waits of a run, said to whoever follows it: for whom, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from stagefleet.runs.model import Run, RunState
from stagefleet.runs.waits import Wait, WaitKind, WaitReason

__all__ = ["WaitReporter", "describe_wait"]

_QUIET_SECONDS = 3.0
"""How long a run has no outcome before its waits are said."""
_AGAIN_SECONDS = 10.0
"""How soon a wait of the same kind is said again, whatever changes."""
_DAY_SECONDS = 24 * 3600


def describe_wait(wait: Wait, run: Run, *, clock: Callable[[], float] = time.time) -> str:
    """Say a wait in one line.

    Args:
        wait: Which.
        run: The run that it is of, as it stood when the wait was read.
        clock: Gives this host's seconds since 1970; the line names this host's time of day.

    It reads as `12 items wait for r.test (429 Too Many Requests), next try at 14:03:10`.
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
    """Name the moment so many seconds from now, with its date if that is not soon."""
    at = datetime.fromtimestamp(now + seconds).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}" if seconds >= _DAY_SECONDS else f"{at:%H:%M:%S}"


@dataclass(frozen=True, slots=True)
class _Said:
    """A wait as it was said: why, until when on the ledger's clock, and when on ours."""

    reason: WaitReason
    until: float
    at: float


class WaitReporter:
    """Says for whom a run waits, once it stands still for some seconds; each wait once.

    Args:
        say: Told, in one line each.
        clock: Seconds, monotonic.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._moved_at = clock()
        self._said: dict[WaitKind, _Said] = {}
        self._has_said_submitting = False

    def move(self) -> None:
        """Note that the run has an outcome."""
        self._moved_at = self._clock()

    def look(self, run: Run) -> None:
        """Say what is new; called about each second in which the run has no outcome."""
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
    """Whether there is another reason, or what was said is over."""
    return wait.reason != said.reason or run.now_at >= said.until
