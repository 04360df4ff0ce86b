"""What holds work back: the item's lease, as the code that does the work sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, runtime_checkable

from stagefleet.errors import ItemCancelledError, LeaseLostError

__all__ = [
    "SLICE_SECONDS",
    "UNLEASHED",
    "Leash",
    "LeashedLock",
    "UndoLeash",
    "WaitingLeash",
    "current_leash",
    "under",
    "waiting",
]

SLICE_SECONDS = 0.5
"""How long a wait goes on without a look at the leash; a cancelled item has to end within two seconds."""


class Leash(Protocol):
    """Asked often by long work, so that it stops soon after it must."""

    def check(self) -> None:
        """Return at once, or raise; costs no round trip. Called between chunks of a stream, and in waits.

        Raises:
            LeaseLostError: The lease is over: somebody else may hold the item by now.
            ItemCancelledError: The run was cancelled with `now`, or the worker has to stop.
        """

    def require(self, seconds: float) -> None:
        """Return only if the lease outlasts `seconds` from now; renews it if it must.

        Called before each write that takes effect (manifest PUT, DELETE), with the request's time-out: no
        registry checks a fencing token, so a write may only start while nobody else can hold the item.

        Raises:
            LeaseLostError: It does not.
            ItemCancelledError: As in `check`.
        """


@runtime_checkable
class WaitingLeash(Leash, Protocol):
    """A leash that also tells whoever follows the run of its waits."""

    def waiting(self, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
        """Tell of a wait while the block lasts.

        Args:
            seconds: How long it may last.
            host: Who is waited for, as `host[:port]`; "" where it is no host.
            text: Why.

        Raises:
            WaitTooLongError: The item has waited for too long already in this attempt.
        """


def waiting(leash: Leash, seconds: float, host: str, text: str) -> AbstractContextManager[None]:
    """Tell a leash of a wait, if it is one to be told; arguments as in `WaitingLeash.waiting`."""
    return leash.waiting(seconds, host, text) if isinstance(leash, WaitingLeash) else nullcontext()


class _Unleashed:
    def check(self) -> None:
        return

    def require(self, seconds: float) -> None:  # noqa: ARG002 - nothing is required here
        return


UNLEASHED: Leash = _Unleashed()
"""For work that no run asked for."""


class UndoLeash:
    """The leash of what an attempt that ends early takes back: a few requests, for some seconds at most.

    That the run was cancelled, or that the worker has to stop, holds nothing of it back; a lost lease does.

    Args:
        leash: That of the attempt.
        seconds: How long it may take.
    """

    def __init__(self, leash: Leash, *, seconds: float) -> None:
        self._leash = leash
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        """See `Leash.check`.

        Raises:
            LeaseLostError: The lease is over, or the time is.
        """
        if time.monotonic() > self._until:
            raise LeaseLostError("there is no more time to take back what was begun")
        try:
            self._leash.check()
        except ItemCancelledError:
            return

    def require(self, seconds: float) -> None:
        """See `Leash.require`."""
        self.check()
        try:
            self._leash.require(seconds)
        except ItemCancelledError:
            return


_CURRENT: ContextVar[Leash] = ContextVar("leash", default=UNLEASHED)


@contextmanager
def under(leash: Leash) -> Iterator[None]:
    """Hold back by a leash whatever this thread asks of registries meanwhile without naming one.

    Work on an item asks registries in a hundred places; that each of these waits ends with the item must not
    hang on a parameter that one of them forgets.
    """
    token = _CURRENT.set(leash)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_leash(named: Leash = UNLEASHED) -> Leash:
    """Return the leash that was named, and where none was, the one that this thread works under."""
    return _CURRENT.get() if named is UNLEASHED else named


class LeashedLock:
    """A lock of this process that is waited for under the leash of the thread that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        leash = current_leash()
        while not self._lock.acquire(timeout=SLICE_SECONDS):
            leash.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
