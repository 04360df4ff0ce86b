"""Locks that this process holds: renewed together, and released."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from stagefleet.errors import LockLostError
from stagefleet.leases import LeaseRenewer, RenewedLease
from stagefleet.logs import EventLogger

_log = EventLogger(__name__)


class HeldLock(RenewedLease):
    """A held lock; released at the end of a `with` block.

    Attributes:
        name: The lock's name.
        ticket: Id of the grant.
        fence: Fencing token, greater than that of any earlier grant.
    """

    def __init__(
        self, renewer: LockRenewer, name: str, ticket: str, fence: int, *, seconds: float, asked_at: float
    ) -> None:
        super().__init__(seconds, asked_at)
        self.name = name
        self.ticket = ticket
        self.fence = fence
        self._renewer = renewer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Return at once, or raise; needs no round trip.

        Raises:
            LockLostError: The lease has ended, or the lock was released, by force or by its holder.
        """
        if not self.outlasts(0):
            raise LockLostError(f"the lock {self.name} is lost: somebody else may hold it by now")

    def release(self) -> None:
        """Release the lock; harmless if it is lost or already released."""
        self._renewer.release_all([self])


class LockRenewer(LeaseRenewer[HeldLock]):
    """Renew all locks that this process holds.

    Args:
        renew: Extends leases; returns for each lock if it is still held.
        release: Releases locks.
        lease_seconds: Duration of a lease.
        renewal_seconds: Interval of renewals.
    """

    def __init__(
        self,
        renew: Callable[[Sequence[HeldLock]], Sequence[bool]],
        release: Callable[[Sequence[HeldLock]], object],
        *,
        lease_seconds: float,
        renewal_seconds: float,
    ) -> None:
        super().__init__("locks", renew, interval_seconds=renewal_seconds)
        self._release = release
        self._lease_seconds = lease_seconds

    def add_lock(self, name: str, ticket: str, fence: int, asked_at: float) -> HeldLock:
        """Start to renew a lock that was granted to a request sent at `asked_at`."""
        lock = HeldLock(self, name, ticket, fence, seconds=self._lease_seconds, asked_at=asked_at)
        self.add(lock)
        return lock

    def release_all(self, locks: Iterable[HeldLock]) -> None:
        """Release locks; if Redis does not answer, their leases run out."""
        ended = [lock for lock in locks if not lock.is_lost]
        for lock in ended:
            lock.is_lost = True
        self.discard(ended)
        if not ended:
            return
        try:
            self._release(ended)
        except Exception as error:  # noqa: BLE001 - the work under the locks is done, whatever Redis answers
            names = [lock.name for lock in ended]
            _log.warning("locks_not_released", action="release", locks=names, error=str(error))
