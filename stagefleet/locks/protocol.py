"""What locks promise; `RedisLocks` and `MemoryLocks` keep the promises.

- A lock is held exclusively by one, or shared by several; never both.
- Who waits is served in the order of asking. Sharers do not overtake somebody who waits for it exclusively.
- A hold is a lease: it ends when its holder does not renew it, so that a dead holder blocks nobody for long.
  Each sharer has a lease of its own.
- Each hold has a fence, a number that only grows: later holds of a lock have greater ones.
- The holder learns that its lease is lost before it ends, by its own clock, without needing an answer.
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
    """Somebody who holds a lock or waits for it.

    Attributes:
        ticket: The hold's or wait's own id.
        label: Who it is, for people: host and process, or what the caller said.
        shared: Whether it is, or is to be, shared.
        fence: Of a hold; 0 for one who waits.
        seconds_left: Until its lease ends, unless it is renewed.
    """

    ticket: str
    label: str
    shared: bool
    fence: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class LockInfo:
    """How a lock stands.

    Attributes:
        name: Its name.
        holders: Who holds it.
        waiting: Who waits, the next one first.
    """

    name: str
    holders: tuple[LockHolder, ...] = ()
    waiting: tuple[LockHolder, ...] = ()


OnWait = Callable[[LockInfo], None]
"""Told once, before the first wait, who holds the lock."""


class HeldLock(Protocol):
    """A hold of a lock; released at the end of a `with` block."""

    @property
    def name(self) -> str:
        """The lock's name."""

    @property
    def fence(self) -> int:
        """Greater than that of any earlier hold."""

    def check(self) -> None:
        """Return at once, or raise; costs no round trip.

        Raises:
            LockLostError: The lease is over, or was released by somebody else.
        """

    def release(self) -> None:
        """Let go; harmless when it is lost or was released before."""

    def __enter__(self) -> Self:
        """The hold itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""


class LockManager(Protocol):
    """Gives locks; from many threads."""

    @property
    def longest_wait_seconds(self) -> float:
        """The settings' bound of a wait."""

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
        """Take a lock.

        Args:
            name: Its name.
            shared: Beside other sharers; otherwise alone.
            wait_seconds: The longest wait, 0 for none; the settings' bound if None.
            on_wait: Told once when there is something to wait for.
            label: Who asks, for people; host and process if None.
            check: Called at each turn of the wait; what it raises ends it.

        Raises:
            LockTimeoutError: It was not to be had in time; names who holds it.
        """

    def take_free(
        self, wanted: Mapping[str, bool], *, label: str | None = None
    ) -> AbstractContextManager[Sequence[HeldLock]]:
        """Take several locks in one step, if nobody stands in the way of any; otherwise none of them.

        Where there is something to wait for, take them one after another, everybody in the order of names.

        Args:
            wanted: By name, whether it is to be shared.
            label: As in `acquire`.

        Yields:
            The holds, in the order of `wanted`, released together at the end of the block; none if there is
            something to wait for.
        """

    def locks(self) -> list[LockInfo]:
        """All locks that are held or waited for."""

    def force_release(self, name: str, ticket: str | None = None) -> int:
        """Take a lock from its holders, or from one; they learn at their next renewal.

        Returns:
            How many holds were ended.
        """

    def close(self) -> None:
        """End the renewals; the leases of what is held run out."""
