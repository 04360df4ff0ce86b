"""What holds work back: the item's lease, as the code that does the work sees it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["UNLEASHED", "Leash"]


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


class _Unleashed:
    def check(self) -> None:
        return

    def require(self, seconds: float) -> None:  # noqa: ARG002 - nothing is required here
        return


UNLEASHED: Leash = _Unleashed()
"""For work that no run asked for."""
