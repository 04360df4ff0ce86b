"""Leases as the code under them sees them, and the loop that renews them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, runtime_checkable

from stagefleet.errors import ItemCancelledError, LeaseLostError
from stagefleet.logs import EventLogger
from stagefleet.redis_retry import backoff_seconds

__all__ = [
    "NO_LEASE",
    "SLICE_SECONDS",
    "Lease",
    "LeaseBoundLock",
    "Renewals",
    "UndoLease",
    "WaitReportingLease",
    "current_lease",
    "elapsed_seconds",
    "keep_renewing",
    "under_lease",
    "waiting",
]

# The lease on the current item, as the code that does the work sees it.

SLICE_SECONDS = 0.5
"""Longest wait between two checks of the lease; a cancelled item has to end within two seconds."""


class Lease(Protocol):
    """The lease on an item. Long work checks it often, so that it stops soon after the lease ends."""

    def check(self) -> None:
        """Return at once, or raise; needs no round trip. Call it between chunks of a stream, and in waits.

        Raises:
            LeaseLostError: The lease has ended: another worker may hold the item.
            ItemCancelledError: The run was cancelled with `now`, or the worker has to stop.
        """

    def require(self, seconds: float) -> None:
        """Return only if the lease outlasts `seconds` from now; renew it if needed.

        Call it before each write that takes effect (manifest PUT, DELETE), with the request's time-out: no
        registry checks a fencing token, so a write may only start while no other worker can hold the item.

        Raises:
            LeaseLostError: The lease does not outlast it.
            ItemCancelledError: As in `check`.
        """


@runtime_checkable
class WaitReportingLease(Lease, Protocol):
    """A lease that also reports its waits to the run's observers."""

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        """Report a wait while the block lasts.

        Args:
            seconds: Longest duration of the wait.
            host: The host waited for, `host[:port]`; "" if it is no host.
            text: The reason.

        Raises:
            WaitTooLongError: The item has waited too long in this attempt.
        """


def waiting(lease: Lease, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
    """Report a wait if the lease takes reports; arguments as in `WaitReportingLease.waiting`."""
    return lease.waiting(seconds, host, text) if isinstance(lease, WaitReportingLease) else nullcontext()


class _NoLease:
    def check(self) -> None:
        return

    def require(self, seconds: float) -> None:  # noqa: ARG002 - nothing to require here
        return


NO_LEASE: Lease = _NoLease()
"""No lease: for work outside of a run."""


class UndoLease:
    """Lease for undoing an attempt that ends early: a few requests, for some seconds at most.

    A cancelled run or a stopping worker does not end it; a lost lease does.

    Args:
        lease: The attempt's lease.
        seconds: Time limit.
    """

    def __init__(self, lease: Lease, *, seconds: float) -> None:
        self._lease = lease
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        """Return at once, or raise.

        Raises:
            LeaseLostError: The lease or the time limit has ended.
        """
        if time.monotonic() > self._until:
            raise LeaseLostError("there is no more time to take back what was begun")
        try:
            self._lease.check()
        except ItemCancelledError:
            return

    def require(self, seconds: float) -> None:
        self.check()
        try:
            self._lease.require(seconds)
        except ItemCancelledError:
            return


_CURRENT: ContextVar[Lease] = ContextVar("leash", default=NO_LEASE)


@contextmanager
def under_lease(lease: Lease) -> Iterator[None]:
    """Check a lease in all registry calls of this thread in the block, unless they name another.

    Work on an item calls registries in a hundred places; ending each of their waits with the item must not
    depend on a parameter that one of them forgets.
    """
    token = _CURRENT.set(lease)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_lease(named: Lease = NO_LEASE) -> Lease:
    """Return the lease that was named, else the one that this thread works under."""
    return _CURRENT.get() if named is NO_LEASE else named


class LeaseBoundLock:
    """A lock of this process; waiting for it checks the waiting thread's lease."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        lease = current_lease()
        while not self._lock.acquire(timeout=SLICE_SECONDS):
            lease.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


# The renewal loop for leases: errors do not end it, and it retries soon after an outage.

_log = EventLogger(__name__)


class Renewals:
    """Renew, and log failures and the end of an outage.

    Args:
        what: The thing renewed, for the log: `leases`, `locks`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0

    def attempt(self, renew: Callable[[], object]) -> float | None:
        """Renew once.

        Any error may be gone at the next attempt. After an outage the lease must be renewed at once, before a
        sweep takes it.

        Returns:
            None on success, else the seconds to wait before the next attempt.
        """
        try:
            renew()
        except Exception as error:  # noqa: BLE001 - a bug with one answer must not end the renewals of all others
            self._failures += 1
            log = _log.warning if self._failures == 1 else _log.debug
            log(f"{self._what}_not_renewed", action="renew", error=str(error))
            return backoff_seconds(self._failures)
        if self._failures:
            _log.info(f"{self._what}_renewed_again", action="renew", failures=self._failures)
        self._failures = 0
        return None


def keep_renewing(renew: Callable[[], object], ended: threading.Event, *, what: str, seconds: float) -> None:
    """Renew at an interval, and soon after a failed renewal, until the end.

    Args:
        renew: Renews once.
        ended: Set to end the loop.
        what: The thing renewed, for the log.
        seconds: The interval.
    """
    renewals, pause = Renewals(what), seconds
    while not ended.wait(pause):
        pause = min(seconds, renewals.attempt(renew) or seconds)


# A clock for ages: it includes the time that the machine was suspended.


def elapsed_seconds() -> float:
    """Return seconds since an arbitrary moment, including time in which the machine or process was suspended.

    `time.monotonic` stops while a virtual machine is suspended (clock_gettime(2), CLOCK_BOOTTIME).
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
