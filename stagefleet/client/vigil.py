"""Whether anybody works on a run: a fleet without workers is said soon, and given up after a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.runs.dispatch import queue_of
from stagefleet.runs.ledger import Attendance
from stagefleet.runs.model import Order
from stagefleet.settings import RunSettings

__all__ = ["Vigil"]


class Vigil:
    """Looks for workers while a run has no outcomes.

    Args:
        ledger: Who works.
        order: What the run is to do, which says in which queue its items are.
        settings: How long to wait.
        say: Told once that nobody works.
        advice: What a person can do about it, or waits for.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        ledger: Attendance,
        order: Order,
        settings: RunSettings,
        say: Callable[[str], None],
        *,
        advice: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._queue = queue_of(order.operation)
        self._settings = settings
        self._say = say
        self._advice = advice
        self._clock = clock
        self._alone_since = clock()
        self._said = False

    def look(self) -> None:
        """Look once; called about each second in which the run has no outcome.

        Raises:
            NoWorkerError: Nobody has worked for too long.
        """
        now = self._clock()
        try:
            present = bool(self._ledger.workers(self._queue))
        except RedisUnreachableError:
            # Nobody can be seen, so nobody is missed; who reads the outcomes decides how long is too long.
            present = True
        if present:
            self._alone_since = now
            self._said = False
            return
        alone_seconds = now - self._alone_since
        if alone_seconds >= self._settings.no_worker_limit_seconds:
            raise NoWorkerError(
                f"no worker has listened to the queue {self._queue!r} for {alone_seconds:.0f} s, "
                f"so the run is cancelled: {self._advice}"
            )
        if alone_seconds >= self._settings.no_worker_notice_seconds and not self._said:
            self._said = True
            self._say(
                f"no worker listens to the queue {self._queue!r}: {self._advice} "
                f"(giving up after {self._settings.no_worker_limit_seconds:.0f} s)"
            )
