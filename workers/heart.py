"""Heartbeat: reports to the fleet that this worker lives, and detects a consumer that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import Attendance
from stagefleet.runs.model import WorkerInfo

__all__ = ["BEAT_SECONDS", "Heart"]

BEAT_SECONDS = 4.0
_LIFE_SECONDS = 15.0
"""Time for which a worker counts as live after a heartbeat; three in a row may be lost."""
STILL_SECONDS = 120.0
"""Longest standstill of the consumer's loop while Redis answers; above kombu's own time-outs (51 s)."""

_log = EventLogger(__name__)


class Heart:
    """Send heartbeats to the ledger, and watch the consumer's loop.

    A consumer that hangs on a broken connection looks alive from outside: its process runs and its heartbeats
    go out (celery #7276, #8030). So the loop itself calls `pulse`.

    Args:
        attendance: The ledger.
        worker: This worker's data for the ledger.
        on_still: Called once when the loop has stood still although Redis answers.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        attendance: Attendance,
        worker: WorkerInfo,
        *,
        on_still: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attendance = attendance
        self._worker = worker
        self._on_still = on_still
        self._clock = clock
        self._alive_at = clock()
        self._reported = False

    def pulse(self) -> None:
        """Record that the consumer's loop runs; the loop calls this every few seconds."""
        self._alive_at = self._clock()

    def beat(self) -> None:
        """Send a heartbeat, and check the loop.

        Raises:
            RedisUnreachableError: The ledger does not answer; then the loop cannot be expected to run.
        """
        try:
            self._attendance.beat(self._worker, seconds=_LIFE_SECONDS)
        except Exception:
            self.pulse()
            raise
        still_seconds = self._clock() - self._alive_at
        if still_seconds > STILL_SECONDS and not self._reported:
            self._reported = True
            _log.error("consumer_stands_still", action="beat", seconds=round(still_seconds))
            self._on_still()

    def sign_off(self) -> None:
        """Report to the fleet that this worker is gone."""
        self._attendance.beat(self._worker, seconds=0)
