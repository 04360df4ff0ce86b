"""Renewal of the locks that this process holds, for every lock manager."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from stagefleet.errors import LockLostError
from stagefleet.leases import Renewals
from stagefleet.logs import EventLogger

__all__ = ["LockRenewer", "RenewedLock"]

_MARGIN_SHARE = 0.1
"""Safety margin, as a fraction of the lease: a lock counts as lost this long before its lease ends."""

_log = EventLogger(__name__)


class RenewedLock:
    """A held lock; see `HeldLock`. Times are on this process's monotonic clock."""

    def __init__(self, renewer: LockRenewer, name: str, ticket: str, fence: int, until: float) -> None:
        self.name = name
        self.ticket = ticket
        self.fence = fence
        self._renewer = renewer
        self._until = until
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        if self._is_over or time.monotonic() > self._until:
            raise LockLostError(f"the lock {self.name} is lost: somebody else may hold it by now")

    def release(self) -> None:
        self._renewer.release_all([self])

    def end(self) -> bool:
        """Mark the lock as released; return False if it already was. For the renewer."""
        was_over, self._is_over = self._is_over, True
        return not was_over

    def note_renewal(self, until: float | None) -> None:
        """Apply the result of a renewal: the new end, None if the lock is lost. For the renewer."""
        if until is None:
            self._is_over = True
        else:
            self._until = until


class LockRenewer:
    """Renew all locks that this process holds, in one thread.

    Args:
        renew: Extends leases; returns for each lock if it is still held.
        release: Releases locks.
        lease_seconds: Duration of a lease.
        renewal_seconds: Interval of renewals.
    """

    def __init__(
        self,
        renew: Callable[[Sequence[RenewedLock]], Sequence[bool]],
        release: Callable[[Sequence[RenewedLock]], object],
        *,
        lease_seconds: float,
        renewal_seconds: float,
    ) -> None:
        self._renew = renew
        self._release = release
        self._lease_seconds = lease_seconds
        self._renewal_seconds = renewal_seconds
        self._holds: set[RenewedLock] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str, ticket: str, fence: int, asked_at: float) -> RenewedLock:
        """Start to renew a lock that was granted to a request sent at `asked_at`."""
        hold = RenewedLock(self, name, ticket, fence, self._end_of(asked_at))
        with self._lock:
            self._holds.add(hold)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lock-renewer", daemon=True)
                self._thread.start()
        return hold

    @contextmanager
    def releasing(self, holds: Iterable[RenewedLock]) -> Iterator[list[RenewedLock]]:
        """Release locks together at the end of the block."""
        held = list(holds)
        try:
            yield held
        finally:
            self.release_all(held)

    def release_all(self, holds: Iterable[RenewedLock]) -> None:
        """Release locks; if Redis does not answer, their leases run out."""
        ended = [hold for hold in holds if hold.end()]
        if not ended:
            return
        with self._lock:
            self._holds.difference_update(ended)
        try:
            self._release(ended)
        except Exception as error:  # noqa: BLE001 - the work under the locks is done, whatever Redis answers
            names = [hold.name for hold in ended]
            _log.warning("locks_not_released", action="release", locks=names, error=str(error))

    def close(self) -> None:
        """Stop the renewals."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=self._renewal_seconds)

    def renew_all(self) -> None:
        """Renew every lock now.

        Raises:
            RedisUnreachableError: Redis did not answer; the leases run on.
        """
        with self._lock:
            holds = list(self._holds)
        if not holds:
            return
        asked_at = time.monotonic()
        for hold, is_held in zip(holds, self._renew(holds), strict=True):
            hold.note_renewal(self._end_of(asked_at) if is_held else None)
            if not is_held:
                with self._lock:
                    self._holds.discard(hold)

    def _end_of(self, asked_at: float) -> float:
        return asked_at + self._lease_seconds * (1 - _MARGIN_SHARE)

    def _run(self) -> None:
        renewals, pause = Renewals("locks"), self._renewal_seconds
        while not self._closed.wait(pause):
            with self._lock:
                if not self._holds:  # the next hold starts another thread
                    self._thread = None
                    return
            failed = renewals.attempt(self.renew_all)
            pause = self._renewal_seconds if failed is None else min(failed, self._renewal_seconds)
