"""Locks; `RedisLocks` and `MemoryLocks` keep them.

- A lock is held exclusively by one holder, or shared by several; never both.
- Waiting requests are served in the order of arrival. A shared request does not overtake a waiting exclusive
  one.
- A lock is held under a lease, which ends if its holder does not renew it, so that a dead holder blocks
  nobody for long. Each sharing holder has its own lease.
- Each grant has a fencing token, a number that only grows: later grants of a lock have greater ones.
- A holder detects that its lease is lost before it ends, by its own clock, without a request.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

from stagefleet.backoff import jittered
from stagefleet.errors import LockLostError, LockTimeoutError
from stagefleet.leases import LeaseRenewer, RenewedLease
from stagefleet.logs import EventLogger
from stagefleet.redis_client import OUTAGE_SECONDS, DeferredCall, LastStep, RedisRetry, put_off
from stagefleet.settings import LockSettings

_log = EventLogger(__name__)


class HeldLock(RenewedLease):
    """A held lock; released at the end of a `with` block. Its ticket is the id of the grant."""

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

    def __exit__(self, *_error: object) -> None:
        self.release()

    def check(self) -> None:
        """Return at once; `LockLostError` if the lease has ended, or the lock was released, also by force.

        Needs no round trip.
        """
        if self.is_lost or self.clock() > self.asked_at + self.seconds - self.margin_seconds:
            raise LockLostError(f"the lock {self.name} is lost: somebody else may hold it by now")

    def release(self) -> None:
        """Release the lock; harmless if it is lost or already released."""
        self._renewer.release_all([self])


class LockRenewer(LeaseRenewer[HeldLock]):
    """Renew all locks that this process holds, and release them."""

    def __init__(
        self,
        renew: Callable[[Sequence[HeldLock]], Sequence[bool]],
        release: Callable[[Sequence[HeldLock]], object],
        settings: LockSettings,
    ) -> None:
        super().__init__("locks", renew, interval_seconds=settings.renewal_seconds)
        self._release = release
        self._lease_seconds = settings.lease_seconds

    def add_lock(self, name: str, ticket: str, fence: int, asked_at: float) -> HeldLock:
        """Start to renew a lock that was granted to a request sent at `asked_at`."""
        lock = HeldLock(self, name, ticket, fence, seconds=self._lease_seconds, asked_at=asked_at)
        self.add(lock)
        return lock

    def release_all(self, locks: Iterable[HeldLock]) -> None:
        """Release locks; if Redis does not answer, their leases run out."""
        ended = self.end(locks)
        if not ended:
            return
        try:
            self._release(ended)
        except Exception as error:  # noqa: BLE001 - the work under the locks is done, whatever Redis answers
            self.note_failure(ended, error)

    def end(self, locks: Iterable[HeldLock]) -> list[HeldLock]:
        """Renew locks no more, and return those that were held until now."""
        ended = [lock for lock in locks if not lock.is_lost]
        for lock in ended:
            lock.is_lost = True
        self.discard(ended)
        return ended

    def note_failure(self, locks: Iterable[HeldLock], error: Exception) -> None:
        """Log that locks were not released: their leases run out."""
        names = [lock.name for lock in locks]
        _log.warning("locks_not_released", action="release", locks=names, error=str(error))


_LONGEST_NAP_SECONDS = 1.0
_NAP_SHARE = 0.25
"""Interval of repeated requests, as a fraction of the lease: a request not repeated for a lease expires."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A holder of a lock, or a request that waits for it, which has the fencing token 0.

    The label describes it for people; `seconds_left` is the time until its lease ends without a renewal.
    """

    ticket: str
    label: str
    shared: bool
    fence: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class LockInfo:
    """State of a lock: its holders, and the waiting requests, the next one first."""

    name: str
    holders: tuple[LockHolder, ...] = ()
    waiting: tuple[LockHolder, ...] = ()


OnWait = Callable[[LockInfo], None]
"""Called once, before the first wait, with the holders of the lock."""


class LockManager(ABC):
    """Grant locks; thread-safe. A wait lasts for `longest_wait_seconds` by default, from the settings."""

    def __init__(self, settings: LockSettings) -> None:
        self.longest_wait_seconds = settings.wait_seconds
        self._lease_seconds = settings.lease_seconds
        self._renewer = LockRenewer(self._renew, self._release, settings)

    def acquire(
        self,
        name: str,
        *,
        shared: bool = False,
        wait_seconds: float | None = None,
        on_wait: OnWait | None = None,
        label: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> HeldLock:
        """Acquire a lock, exclusively or shared with other sharing holders.

        Args:
            wait_seconds: Longest wait, 0 for none; the settings' limit if None.
            on_wait: Called once if the lock is not free.
            label: Description of the caller for people; host and process if None.
            check: Called now and then in the wait; its errors end it.

        Raises:
            LockTimeoutError: The lock did not become free in time; names its holders.
            RedisUnreachableError: Redis does not answer. A request that waits already outlasts an outage.
        """
        ticket, asked_at = secrets.token_hex(8), 0.0

        def request() -> int:
            nonlocal asked_at
            asked_at = time.monotonic()
            return self._request(name, ticket, label or default_label(), shared=shared)

        seconds = self.longest_wait_seconds if wait_seconds is None else wait_seconds
        try:
            with self._changes_for(ticket) as nap:
                fence = request()
                if not fence and seconds > 0 and on_wait is not None:
                    on_wait(self._info_of(name))
                fence = fence or self._wait(name, request, nap, seconds, check)
        except BaseException:
            with suppress(Exception):  # without a renewal its request expires
                self.force_release(name, ticket)
            raise
        return self._renewer.add_lock(name, ticket, fence, asked_at)

    def _wait(
        self,
        name: str,
        request: Callable[[], int],
        nap: Callable[[float], None],
        wait_seconds: float,
        check: Callable[[], None] | None,
    ) -> int:
        """Repeat a request until the lock is granted; return its fencing token."""

        def rest(seconds: float) -> None:
            if check is not None:
                check()
            time.sleep(seconds)

        redis_retry = RedisRetry(min(wait_seconds, OUTAGE_SECONDS), sleep=rest)
        give_up_at = time.monotonic() + wait_seconds
        longest_nap = min(_LONGEST_NAP_SECONDS, self._lease_seconds * _NAP_SHARE)
        while (left := give_up_at - time.monotonic()) > 0:
            if check is not None:
                check()
            redis_retry(partial(nap, min(left, jittered(longest_nap))))
            if fence := redis_retry(request):
                return fence
        raise LockTimeoutError(_refusal(self._info_of(name), wait_seconds))

    @contextmanager
    def acquire_free(
        self, wanted: Mapping[str, bool], *, label: str | None = None, last_step: LastStep | None = None
    ) -> Iterator[Sequence[HeldLock]]:
        """Acquire several locks in one step if all are free; otherwise none of them.

        If one is not free, acquire them one after another, always in the order of their names. `wanted` says
        by name if a lock is shared; the locks are yielded in its order, and released together at the end of
        the block, or after it in `last_step`, unless it raises.
        """
        ticket, asked_at = secrets.token_hex(8), time.monotonic()
        try:
            fences = self._request_free(wanted, ticket, label or default_label())
        except BaseException:
            with suppress(Exception):  # without a renewal their leases expire
                for name in wanted:
                    self.force_release(name, ticket)
            raise
        held = [
            self._renewer.add_lock(name, ticket, fence, asked_at)
            for name, fence in zip(wanted, fences, strict=False)
        ]
        try:
            yield held
        except BaseException:
            self._renewer.release_all(held)
            raise
        if not held or not put_off(last_step, self._releasing(held)):
            self._renewer.release_all(held)

    @abstractmethod
    def locks(self) -> list[LockInfo]:
        """List all locks that are held or waited for."""

    @abstractmethod
    def force_release(self, name: str, ticket: str | None = None) -> int:
        """Release a lock by force, for all holders or one; they detect it at their next renewal.

        Returns the number of holders that lost it.
        """

    def close(self) -> None:
        """Stop the renewals; the leases of held locks run out."""
        self._renewer.close()

    @abstractmethod
    def _request(self, name: str, ticket: str, label: str, *, shared: bool) -> int:
        """Request a lock, or repeat the request; return the fencing token, 0 while it is not free."""

    @abstractmethod
    def _request_free(self, wanted: Mapping[str, bool], ticket: str, label: str) -> Sequence[int]:
        """Request locks; return their fencing tokens, or none if one is not free."""

    @abstractmethod
    def _changes_for(self, ticket: str) -> AbstractContextManager[Callable[[float], None]]:
        """Yield what waits so many seconds for a change since it was last called, or since the beginning."""

    @abstractmethod
    def _info_of(self, name: str) -> LockInfo: ...

    @abstractmethod
    def _renew(self, locks: Sequence[HeldLock]) -> list[bool]: ...

    @abstractmethod
    def _release(self, locks: Sequence[HeldLock]) -> None: ...

    def _releasing(self, locks: Sequence[HeldLock]) -> DeferredCall | None:  # noqa: ARG002 - as others need
        """Return the release of locks as a call for an item's last step, None if it cannot be put off."""
        return None


def default_label() -> str:
    """Describe this process by host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _refusal(info: LockInfo, wait_seconds: float) -> str:
    holders = ", ".join(holder.label for holder in info.holders) or "those who wait longer"
    return f"the lock {info.name} was not to be had in {wait_seconds:g} s: {holders} has it"
