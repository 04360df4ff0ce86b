"""Heartbeat: reports to the fleet that this worker lives, and detects a consumer that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import HeartbeatLedger
from stagefleet.runs.models import WorkerInfo

__all__ = ["BEAT_SECONDS", "Heartbeat"]

BEAT_SECONDS = 4.0
_LIFE_SECONDS = 15.0
"""Time for which a worker counts as live after a heartbeat; three in a row may be lost."""
STALLED_SECONDS = 120.0
"""Longest standstill of the consumer's loop while Redis answers; above kombu's own time-outs (51 s)."""

_log = EventLogger(__name__)


class Heartbeat:
    """Send heartbeats to the ledger, and watch the consumer's loop.

    A consumer that hangs on a broken connection looks alive from outside: its process runs and its heartbeats
    go out (celery #7276, #8030). So the loop itself calls `note_loop_alive`.

    Args:
        heartbeats: The ledger.
        worker: This worker's data for the ledger.
        on_stalled: Called once when the loop has stood still although Redis answers.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        heartbeats: HeartbeatLedger,
        worker: WorkerInfo,
        *,
        on_stalled: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heartbeats = heartbeats
        self._worker = worker
        self._on_stalled = on_stalled
        self._clock = clock
        self._alive_at = clock()
        self._reported = False

    def note_loop_alive(self) -> None:
        """Record that the consumer's loop runs; the loop calls this every few seconds."""
        self._alive_at = self._clock()

    def beat(self) -> None:
        """Send a heartbeat, and check the loop.

        Raises:
            RedisUnreachableError: The ledger does not answer; then the loop cannot be expected to run.
        """
        try:
            self._heartbeats.beat(self._worker, seconds=_LIFE_SECONDS)
        except Exception:
            self.note_loop_alive()
            raise
        still_seconds = self._clock() - self._alive_at
        if still_seconds > STALLED_SECONDS and not self._reported:
            self._reported = True
            _log.error("consumer_stalled", action="beat", seconds=round(still_seconds))
            self._on_stalled()

    def sign_off(self) -> None:
        """Report to the fleet that this worker is gone."""
        self._heartbeats.beat(self._worker, seconds=0)
