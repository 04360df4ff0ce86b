"""Whether anybody works on a run: a fleet without workers is said soon, and given up after a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.runs.dispatch import host_queue, queue_of
from stagefleet.runs.ledger import Attendance
from stagefleet.runs.model import Order, Run
from stagefleet.runs.versions import own_version
from stagefleet.settings import RunSettings

__all__ = ["Vigil", "queues_of_order"]

_LONGEST_GAP_SECONDS = 10.0
"""Who has not looked for so long, as in an outage of Redis or a long callback, knows nothing of that time."""
_OWN_WORKER_FACTOR = 5
"""How many times longer a command waits for the worker that it started itself, and whose end it would see."""
_NAMED = 3


def queues_of_order(order: Order) -> tuple[str, ...]:
    """Name the queues that the items of a run go to: those of its hosts, else the operation's own."""
    hosts = order.options.get("hosts") or ()
    return tuple(host_queue(host) for host in hosts) or (queue_of(order.operation),)


class Vigil:
    """Looks for workers while a run has no outcomes.

    A run is alone while no worker listens to any of its queues, no lease of its items goes on, and nothing of
    it changes. That is said once, and the limit counts from there: who was not warned is not given up.

    Args:
        ledger: Who works.
        order: What the run is to do, which says in which queues its items are.
        settings: How long to wait.
        say: Told once that nobody works.
        advice: What a person can do about it, or waits for.
        starts_worker: Whether this process has started a worker of its own, and would see its end.
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
        starts_worker: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._item_queues = self._queues = queues_of_order(order)
        self._is_called_back = order.is_called_back
        self._notice_seconds = settings.no_worker_notice_seconds
        self._limit_seconds = settings.no_worker_limit_seconds * (_OWN_WORKER_FACTOR if starts_worker else 1)
        self._starts_worker = starts_worker
        self._say = say
        self._advice = advice
        self._clock = clock
        self._alone_since = self._looked_at = clock()
        self._said_at: float | None = None
        self._standing: tuple[int, ...] = ()
        self._foreign: set[str] = set()

    def move(self) -> None:
        """Note that the run has an outcome: somebody works on it."""
        self._begin_anew(self._clock())

    def look(self, run: Run | None = None) -> None:
        """Look once; called about each second in which the run has no outcome.

        Args:
            run: The run as it stands, where that is known.

        Raises:
            NoWorkerError: Nobody has worked for too long.
        """
        now = self._clock()
        gap, self._looked_at = now - self._looked_at, now
        if run is not None:
            self._queues = self._item_queues if self._has_items_to_do(run) else (queue_of("coordinate"),)
        if gap > _LONGEST_GAP_SECONDS or self._is_worked_on(run) or self._is_attended():
            self._begin_anew(now)
            return
        alone_seconds = now - self._alone_since
        if self._said_at is None:
            if alone_seconds >= self._notice_seconds:
                self._said_at = now
                self._say(self._notice())
        elif now - self._said_at >= self._limit_seconds - self._notice_seconds:
            raise NoWorkerError(
                f"no worker{self._of_this_version()} has listened to {self._named()} for "
                f"{alone_seconds:.0f} s, so the run is cancelled: {self._advice}"
            )

    def _begin_anew(self, now: float) -> None:
        self._alone_since = self._looked_at = now
        self._said_at = None

    def _has_items_to_do(self, run: Run) -> bool:
        """Whether the run waits for its items; otherwise it waits for the fleet to call back."""
        return not self._is_called_back or bool(run.published or run.claimed or run.waiting)

    def _is_worked_on(self, run: Run | None) -> bool:
        """Whether a worker holds an item now, or something has changed since the last look."""
        if run is None:
            return False
        before = self._standing
        self._standing = (run.done, run.claimed, run.published, run.waiting, run.bytes)
        return run.leased_until > run.now_at or (bool(before) and before != self._standing)

    def _is_attended(self) -> bool:
        try:
            workers = self._ledger.workers()
        except RedisUnreachableError:
            # Nobody can be seen, so nobody is missed; who reads the outcomes decides how long is too long.
            return True
        listening = [worker for worker in workers if not set(self._queues).isdisjoint(worker.queues)]
        self._foreign = {str(worker.version) for worker in listening if not worker.version.is_compatible}
        return any(worker.version.is_compatible for worker in listening)

    def _named(self) -> str:
        shown = ", ".join(map(repr, self._queues[:_NAMED]))
        more = len(self._queues) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        return f"the queue {shown}" if len(self._queues) == 1 else f"any of the queues {shown}{rest}"

    def _notice(self) -> str:
        if self._starts_worker:
            return "the worker that this command has started is not ready yet"
        end = "" if math.isinf(self._limit_seconds) else f" (giving up after {self._limit_seconds:.0f} s)"
        return f"no worker{self._of_this_version()} listens to {self._named()}: {self._advice}{end}"

    def _of_this_version(self) -> str:
        """Name the versions, where workers listen that this release cannot work with."""
        if not self._foreign:
            return ""
        return (
            f" that {own_version()} can work with (there are workers of {', '.join(sorted(self._foreign))})"
        )
