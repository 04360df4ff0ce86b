"""Leases as the code under them sees them, and their renewal: one for items, locks, coordinators, and values.

A lease counts from before the request for it, so that it never ends later here than where it was granted, and
as lost some time before its end, without an answer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Generic, Protocol, TypeVar, runtime_checkable

from stagefleet.backoff import REDIS_BACKOFF
from stagefleet.errors import ItemCancelledError, LeaseLostError
from stagefleet.logs import EventLogger

_RENEWALS_A_LEASE = 3
_MARGIN_SHARE = 0.1
_LONGEST_IDLE_SECONDS = 60.0

_log = EventLogger(__name__)

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
        """Return only if the lease outlasts `seconds` from now, renewed if needed; raise as `check` does.

        Call it before each write that takes effect (manifest PUT, DELETE), with the request's time-out: no
        registry checks a fencing token, so a write may only start while no other worker can hold the item.
        """


TOLD_SECONDS = 3.0
"""Shorter waits are counted alone, and reported to nobody: they are over before anyone reads of them."""


@runtime_checkable
class WaitReportingLease(Lease, Protocol):
    """A lease that also counts waits and moved bytes, and reports waits of `TOLD_SECONDS` to observers."""

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        """Report a wait of some seconds at most while the block lasts; "" as the host if it is for none.

        Raises:
            WaitTooLongError: The item has waited too long in this attempt.
        """

    def note_bytes(self, moved: int, expected: int = 0) -> None:
        """Note bytes of large content that were moved, or that will be."""

    def note_progress(self, seconds: float, text: str) -> None:
        """Report how far long work is, as a wait of some seconds at most that counts as none; 0 ends it."""

    def check_run(self) -> None:
        """Check as `check`, and whether the run is being cancelled at all, by a round trip.

        Call it from time to time in long work that has changed nothing yet.

        Raises:
            ItemCancelledError: The run is being cancelled, be it without `now`.
        """


def note_bytes(lease: Lease, moved: int, expected: int = 0) -> None:
    """Note moved and expected bytes if the lease takes reports."""
    if isinstance(lease, WaitReportingLease):
        lease.note_bytes(moved, expected)


def waiting(lease: Lease, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
    """Report a wait if the lease takes reports."""
    return lease.waiting(seconds, host, text) if isinstance(lease, WaitReportingLease) else nullcontext()


def note_progress(lease: Lease, seconds: float, text: str = "") -> None:
    """Report the progress of long work if the lease takes reports; 0 seconds end it."""
    if isinstance(lease, WaitReportingLease):
        lease.note_progress(seconds, text)


def check_run(lease: Lease) -> None:
    """Check the lease, and its run if it has one."""
    if isinstance(lease, WaitReportingLease):
        lease.check_run()
    else:
        lease.check()


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
    """

    def __init__(self, lease: Lease, *, seconds: float) -> None:
        self._lease = lease
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise LeaseLostError("there is no more time to take back what was begun")
        with suppress(ItemCancelledError):
            self._lease.check()

    def require(self, seconds: float) -> None:
        self.check()
        with suppress(ItemCancelledError):
            self._lease.require(seconds)


class ChildLease:
    """A lease that also ends when nobody waits any more for the work under it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._has_ended = False

    def end(self) -> None:
        """End it; the lease that it was made from goes on."""
        self._has_ended = True

    def check(self) -> None:
        if self._has_ended:
            raise ItemCancelledError("nobody waits for this any more")
        self._lease.check()

    def require(self, seconds: float) -> None:
        self.check()
        self._lease.require(seconds)
        self.check()  # another thread may have ended it while it was renewed

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        return waiting(self._lease, seconds, host, text)

    def note_bytes(self, moved: int, expected: int = 0) -> None:
        note_bytes(self._lease, moved, expected)

    def note_progress(self, seconds: float, text: str) -> None:
        note_progress(self._lease, seconds, text)

    def check_run(self) -> None:
        self.check()
        check_run(self._lease)


_CURRENT: ContextVar[Lease] = ContextVar("lease", default=NO_LEASE)


class _UnderLease:
    """Check a lease in all registry calls of this thread in the block, unless they name another.

    Work on an item calls registries in a hundred places; ending each of their waits with the item must not
    depend on a parameter that one of them forgets.
    """

    __slots__ = ("_lease", "_token")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._lease)

    def __exit__(self, *_error: object) -> None:
        _CURRENT.reset(self._token)


under_lease = _UnderLease  # no generator: it costs three times the calls


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


class RenewedLease:
    """A lease that a `LeaseRenewer` renews; it lasts for `seconds` from each renewal on.

    It counts as lost `margin_seconds` before its end, a tenth of it if None; `asked_at` is on the clock.
    """

    def __init__(
        self,
        seconds: float,
        asked_at: float,
        *,
        margin_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.asked_at = asked_at
        self.margin_seconds = seconds * _MARGIN_SHARE if margin_seconds is None else margin_seconds
        self.clock = clock
        self.is_lost = False
        self.renew_at = 0.0  # on the renewer's clock

    def outlasts(self, seconds: float) -> bool:
        """Return True if the lease is held, and still will be in some seconds."""
        end = self.asked_at + self.seconds - self.margin_seconds
        return not self.is_lost and self.clock() + seconds <= end

    def note_renewal(self, asked_at: float, *, is_held: bool = True) -> None:
        """Apply the answer to a renewal; a lost lease stays lost."""
        self.is_lost = self.is_lost or not is_held
        if is_held:
            self.asked_at = max(self.asked_at, asked_at)


_L = TypeVar("_L", bound=RenewedLease)


class LeaseRenewer(Generic[_L]):
    """Renew the leases that this process holds, together, in one thread; `what` they are is for the log.

    No error ends the renewals: any may be gone at the next one. That one comes soon, so that after an outage
    no sweep takes a lease first. `renew` returns for each whether it is still held. A lease is renewed three
    times at least before it ends, whatever the longest interval.
    """

    def __init__(
        self,
        what: str,
        renew: Callable[[Sequence[_L]], Sequence[bool]],
        *,
        interval_seconds: float = math.inf,
    ) -> None:
        self._what = what
        self._ask = renew
        self._interval_seconds = interval_seconds
        self._held: set[_L] = set()
        self._lock = threading.RLock()  # a finalizer may discard a lease within this thread's own step
        self._changed = threading.Condition(self._lock)
        self._wakes_at = math.inf  # when the thread looks again, while it waits
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> list[_L]:
        """The leases under renewal."""
        with self._lock:
            return list(self._held)

    def add(self, lease: _L) -> None:
        """Renew a lease until it is discarded or lost."""
        lease.renew_at = time.monotonic() - (lease.clock() - lease.asked_at) + self._interval_of(lease)
        with self._lock:  # a condition's own methods cost twice as much
            self._held.add(lease)
            if lease.renew_at < self._wakes_at:
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"renew-{self._what}", daemon=True)
                self._thread.start()

    def discard(self, leases: Iterable[_L]) -> None:
        """Renew leases no more."""
        with self._lock:
            self._held.difference_update(leases)

    def renew(self, leases: Sequence[_L] | None = None) -> None:
        """Renew leases now, all by default; if Redis does not answer, it raises and they run on."""
        leases = self.held if leases is None else leases
        if not leases:
            return
        began_at, asked_at = time.monotonic(), [lease.clock() for lease in leases]
        for lease, at, is_held in zip(leases, asked_at, self._ask(leases), strict=True):
            lease.note_renewal(at, is_held=is_held)
            lease.renew_at = began_at + self._interval_of(lease)
        self.discard([lease for lease in leases if lease.is_lost])

    def close(self, wait_seconds: float | None = None) -> None:
        """Stop the renewals; wait for one under way, for `wait_seconds` or the interval at most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            limit = None if math.isinf(self._interval_seconds) else self._interval_seconds
            thread.join(limit if wait_seconds is None else wait_seconds)

    def _interval_of(self, lease: _L) -> float:
        return min(self._interval_seconds, lease.seconds / _RENEWALS_A_LEASE)

    def _run(self) -> None:
        failures = 0
        while leases := self._await_due():
            try:
                self.renew(leases)
            except Exception as error:  # noqa: BLE001 - a bug with one answer must not end the renewals
                failures += 1
                log = _log.warning if failures == 1 else _log.debug
                log(f"{self._what}_not_renewed", action="renew", error=str(error))
                now, pause = time.monotonic(), REDIS_BACKOFF.pause_seconds(failures)
                for lease in leases:
                    lease.renew_at = now + min(pause, self._interval_of(lease))
            else:
                if failures:
                    _log.info(f"{self._what}_renewed_again", action="renew", failures=failures)
                failures = 0

    def _await_due(self) -> list[_L]:
        """Wait until a renewal is due and return all leases; none at the end, or if none come for a while."""
        with self._changed:
            was_idle = False
            while not self._closed and not (was_idle and not self._held):
                now, was_idle = time.monotonic(), not self._held
                idle_until = now + min(self._interval_seconds, _LONGEST_IDLE_SECONDS)
                due_at = min((lease.renew_at for lease in self._held), default=idle_until)
                if due_at <= now:
                    return list(self._held)
                self._wakes_at = due_at
                self._changed.wait(due_at - now)
            self._thread = None  # the next lease starts another
            return []


@contextmanager
def renewed(
    what: str,
    lease: _L,
    renew: Callable[[], bool],
    *,
    interval_seconds: float = math.inf,
    wait_seconds: float | None = None,
) -> Iterator[_L]:
    """Renew one lease, which cannot be renewed together with others, until the end of the block."""
    renewer: LeaseRenewer[_L] = LeaseRenewer(what, lambda _: [renew()], interval_seconds=interval_seconds)
    renewer.add(lease)
    try:
        yield lease
    finally:
        renewer.close(wait_seconds)


# A clock for ages: it includes the time that the machine was suspended.


def elapsed_seconds() -> float:
    """Return seconds since an arbitrary moment, including time in which the machine or process was suspended.

    `time.monotonic` stops while a virtual machine is suspended (clock_gettime(2), CLOCK_BOOTTIME).
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
