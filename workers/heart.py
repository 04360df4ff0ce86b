"""The heart: tells the fleet that this worker lives, and this worker when its consumer does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import Attendance
from stagefleet.runs.model import WorkerInfo

__all__ = ["BEAT_SECONDS", "Heart"]

BEAT_SECONDS = 4.0
_LIFE_SECONDS = 15.0
"""How long a worker counts as live after a beat: three may get lost."""
STILL_SECONDS = 120.0
"""How long the consumer's loop may stand still while Redis answers; above kombu's own time-outs (51 s)."""

_log = EventLogger(__name__)


class Heart:
    """Beats in the ledger, and watches the pulse of the consumer's loop.

    A consumer that hangs on a broken connection looks alive to everybody: its process runs and its
    heartbeats go out (celery #7276, #8030). So the loop itself gives the pulse.

    Args:
        attendance: The ledger.
        worker: What to say of this worker.
        on_still: Called once when the loop has stood still although Redis answers.
        clock: Seconds on a monotonic clock.
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
        """Called by the consumer's loop every few seconds."""
        self._alive_at = self._clock()

    def beat(self) -> None:
        """Tell the fleet, and look at the pulse.

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
        """Tell the fleet that this worker is gone."""
        self._attendance.beat(self._worker, seconds=0)
