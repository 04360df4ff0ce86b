"""Figures of one run from its outcomes, in bounded memory: for pages that people watch.

A run may have a million outcomes. They are read once, in order and a part at a time. Kept are counts, the
first failures, the slowest items, the latest outcomes, and a time line of a hundred bars.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.documents import outcome_row, time_of
from stagefleet.runs.models import ItemState, Outcome

KEPT_FAILURES = 200
KEPT_LATEST = 50
KEPT_SLOWEST = 10
_KEPT_GROUPS = 50
_BARS = 100
_OUTCOMES_A_READ = 1000
_OTHERS = "others"

ReadOutcomes = Callable[[str, int], Sequence[Outcome] | None]
"""Reads outcomes after a position, at most so many; None at the end of the run's."""


@dataclass(slots=True)
class OutcomeCounts:
    """Counts of outcomes that have something in common: a host, or a time."""

    succeeded: int = 0
    skipped: int = 0
    failed: int = 0
    cancelled: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Number of outcomes."""
        return self.succeeded + self.skipped + self.failed + self.cancelled

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.state is ItemState.SUCCEEDED:
            self.succeeded += 1
        elif outcome.state is ItemState.SKIPPED:
            self.skipped += 1
        elif outcome.state is ItemState.FAILED:
            self.failed += 1
        else:
            self.cancelled += 1
        self.bytes += outcome.bytes
        self.seconds += outcome.seconds

    def merge(self, other: OutcomeCounts) -> None:
        """Count all that another one has counted."""
        self.succeeded += other.succeeded
        self.skipped += other.skipped
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.bytes += other.bytes
        self.seconds += other.seconds

    def as_json(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "succeeded": self.succeeded,
            "skipped": self.skipped,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class TimeLine:
    """Outcomes over time, in bars of one width; it doubles when there would be too many."""

    begins_at: float | None = None
    bar_seconds: int = 1
    bars: list[OutcomeCounts] = field(default_factory=list)

    def add(self, outcome: Outcome, at: float) -> None:
        """Count an outcome that was recorded at a time, in seconds since 1970."""
        begins_at = self.begins_at = at if self.begins_at is None else self.begins_at
        while (
            place := max(0, int((at - begins_at) // self.bar_seconds))
        ) >= _BARS:  # a clock may be set back
            self._widen()
        while len(self.bars) <= place:
            self.bars.append(OutcomeCounts())
        self.bars[place].add(outcome)

    def _widen(self) -> None:
        self.bar_seconds *= 2
        for left, right in itertools.zip_longest(self.bars[::2], self.bars[1::2]):
            if right is not None:
                left.merge(right)
        self.bars = self.bars[::2]

    def as_json(self) -> dict[str, Any]:
        """Return the bars, each with its counts by state and its bytes."""
        return {
            "begins_at": self.begins_at,
            "bar_seconds": self.bar_seconds,
            "bars": [[bar.succeeded, bar.skipped, bar.failed, bar.cancelled, bar.bytes] for bar in self.bars],
        }


class RunFigures:
    """Figures of one run, from the outcomes read so far; not thread-safe.

    Attributes:
        position: Position of the last outcome read.
        has_all: True once all outcomes that there are have been read.
        has_ended: True once there will be no more of them.
    """

    def __init__(self) -> None:
        self.has_all = self.has_ended = False
        self._clear()

    def _clear(self) -> None:
        self.position = ""
        self._all = OutcomeCounts()
        self._hosts: dict[str, OutcomeCounts] = {}
        self._errors: dict[str, int] = {}
        self._failures: list[dict[str, Any]] = []
        self._latest: deque[Outcome] = deque(maxlen=KEPT_LATEST)
        self._slowest: list[tuple[float, str, dict[str, Any]]] = []
        self._time_line = TimeLine()

    def read(self, read_outcomes: ReadOutcomes, *, seconds: float) -> None:
        """Read on from the last position for about some seconds, or to the last outcome that there is.

        If the ledger has lost what was read, as after a failover, start again from its first outcome.
        """
        stop_at = time.monotonic() + seconds
        self.has_all = self.has_ended
        while not self.has_all:
            try:
                outcomes = read_outcomes(self.position, _OUTCOMES_A_READ)
            except LedgerRewoundError:
                self._clear()
                outcomes = ()
            else:
                self.has_ended = outcomes is None
                self.has_all = not outcomes or len(outcomes) < _OUTCOMES_A_READ
            for outcome in outcomes or ():
                self.add(outcome)
            if time.monotonic() >= stop_at:
                return

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, the next one after the position."""
        self.position = outcome.position
        self._all.add(outcome)
        self._latest.append(outcome)
        self._time_line.add(outcome, time_of(outcome.position))
        host = outcome.host or ""
        host = host if host in self._hosts or len(self._hosts) < _KEPT_GROUPS else _OTHERS
        self._hosts.setdefault(host, OutcomeCounts()).add(outcome)
        if outcome.state is ItemState.FAILED:
            self._note_failure(outcome)
        is_slow = len(self._slowest) < KEPT_SLOWEST or outcome.seconds > self._slowest[0][0]
        if is_slow and outcome.seconds > 0:
            # No two outcomes have a position in common, so that rows are never compared.
            heapq.heappush(self._slowest, (outcome.seconds, outcome.position, outcome_row(outcome)))
            if len(self._slowest) > KEPT_SLOWEST:
                heapq.heappop(self._slowest)

    def _note_failure(self, outcome: Outcome) -> None:
        name = outcome.error.type if outcome.error else "?"
        name = name if name in self._errors or len(self._errors) < _KEPT_GROUPS else _OTHERS
        self._errors[name] = self._errors.get(name, 0) + 1
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(outcome_row(outcome))

    def as_json(self) -> dict[str, Any]:
        """Return all figures; the lists are cut to what a page shows."""
        return {
            "position": self.position,
            "read": self._all.total,
            "has_all": self.has_all,
            "failures": self._failures,
            "error_types": dict(sorted(self._errors.items(), key=lambda entry: -entry[1])),
            "latest": [outcome_row(outcome) for outcome in reversed(self._latest)],
            "slowest": [row for _, _, row in sorted(self._slowest, reverse=True)],
            "hosts": [{"host": host, **tally.as_json()} for host, tally in sorted(self._hosts.items())],
            "all": self._all.as_json(),
            "time_line": self._time_line.as_json(),
        }
