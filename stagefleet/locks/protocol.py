"""Contract of locks; `RedisLocks` and `MemoryLocks` implement it.

- A lock is held exclusively by one holder, or shared by several; never both.
- Waiting requests are served in the order of arrival. A shared request does not overtake a waiting exclusive
  one.
- A lock is held under a lease, which ends if its holder does not renew it, so that a dead holder blocks
  nobody for long. Each sharing holder has its own lease.
- Each grant has a fencing token, a number that only grows: later grants of a lock have greater ones.
- A holder detects that its lease is lost before it ends, by its own clock, without a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

__all__ = ["HeldLock", "LockHolder", "LockInfo", "LockManager", "OnWait"]


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A holder of a lock, or a request that waits for it.

    Attributes:
        ticket: Id of the grant or request.
        label: Description for people: host and process, or the caller's text.
        shared: True for a shared lock.
        fence: Fencing token; 0 for a waiting request.
        seconds_left: Time until its lease ends without a renewal.
    """

    ticket: str
    label: str
    shared: bool
    fence: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class LockInfo:
    """State of a lock.

    Attributes:
        name: Its name.
        holders: Its current holders.
        waiting: The waiting requests, the next one first.
    """

    name: str
    holders: tuple[LockHolder, ...] = ()
    waiting: tuple[LockHolder, ...] = ()


OnWait = Callable[[LockInfo], None]
"""Called once, before the first wait, with the holders of the lock."""


class HeldLock(Protocol):
    """A held lock; released at the end of a `with` block."""

    @property
    def name(self) -> str:
        """The lock's name."""

    @property
    def fence(self) -> int:
        """Fencing token, greater than that of any earlier grant."""

    def check(self) -> None:
        """Return at once, or raise; needs no round trip.

        Raises:
            LockLostError: The lease has ended, or the lock was released by force.
        """

    def release(self) -> None:
        """Release the lock; harmless if it is lost or already released."""

    def __enter__(self) -> Self:
        """Return the lock itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""


class LockManager(Protocol):
    """Grant locks; thread-safe."""

    @property
    def longest_wait_seconds(self) -> float:
        """Default limit of a wait, from the settings."""

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
        """Acquire a lock.

        Args:
            name: The lock's name.
            shared: True to share it with other sharing holders, False to hold it exclusively.
            wait_seconds: Longest wait, 0 for none; the settings' limit if None.
            on_wait: Called once if the lock is not free.
            label: Description of the caller for people; host and process if None.
            check: Called at each turn of the wait; its errors end the wait.

        Raises:
            LockTimeoutError: The lock did not become free in time; names its holders.
        """

    def acquire_free(
        self, wanted: Mapping[str, bool], *, label: str | None = None
    ) -> AbstractContextManager[Sequence[HeldLock]]:
        """Acquire several locks in one step if all are free; otherwise none of them.

        If one is not free, acquire them one after another, always in the order of their names.

        Args:
            wanted: True for a shared lock, by name.
            label: As in `acquire`.

        Yields:
            The locks, in the order of `wanted`, released together at the end of the block; none if one is not
            free.
        """

    def locks(self) -> list[LockInfo]:
        """List all locks that are held or waited for."""

    def force_release(self, name: str, ticket: str | None = None) -> int:
        """Release a lock by force, for all holders or one; they detect it at their next renewal.

        Returns:
            The number of holders that lost it.
        """

    def close(self) -> None:
        """Stop the renewals; the leases of held locks run out."""
