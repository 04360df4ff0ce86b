"""What holds work back: the item's lease, as the code that does the work sees it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from stagefleet.errors import ItemCancelledError, LeaseLostError

__all__ = ["UNLEASHED", "Leash", "UndoLeash", "WaitingLeash", "waiting"]


class Leash(Protocol):
    """Asked often by long work, so that it stops soon after it must."""

    def check(self) -> None:
        """Return at once, or raise; costs no round trip. Called between chunks of a stream.

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
