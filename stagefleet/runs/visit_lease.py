"""The lease of a coordinator's visit: renewed by a thread, and the leash of the calls that are made in it.

As long as a call lasts, nobody else calls; once the lease may be over, this one calls no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stagefleet.errors import LeaseLostError
from stagefleet.renewal import keep_renewing
from stagefleet.runs.ledger import Switchboard
from stagefleet.runs.model import Visit

__all__ = ["VisitLease"]

_RENEWALS_A_LEASE = 3
_MARGIN_SHARE = 0.1
"""The part of a lease before whose end it counts as lost."""
_JOIN_SECONDS = 1.0
"""How long a renewal that is under way is waited for; one that comes late renews no other visit's lease."""


class VisitLease:
    """A visit's lease, renewed until the end of a `with` block; a `Leash`.

    Args:
        ledger: Where it is renewed.
        visit: Whose lease it is.
        asked_at: When the visit was asked for, on the clock.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        ledger: Switchboard,
        visit: Visit,
        asked_at: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._visit = visit
        self._clock = clock
        self._renewed_at = asked_at
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"visit-{visit.run}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)

    def note_renewal(self, asked_at: float) -> None:
        """Note that the ledger was asked for a renewal at a moment, and granted it."""
        self._renewed_at = max(self._renewed_at, asked_at)

    def check(self) -> None:
        """See `Leash.check`.

        Raises:
            LeaseLostError: Another coordinator is there, or may be.
        """
        age = self._clock() - self._renewed_at
        if self._is_lost or age > self._visit.lease_seconds * (1 - _MARGIN_SHARE):
            raise LeaseLostError(f"another coordinator may be calling back for run {self._visit.run} by now")

    def require(self, seconds: float) -> None:
        """See `Leash.require`; what is renewed all the time outlasts any call."""
        del seconds
        self.check()

    def _keep(self) -> None:
        seconds = self._visit.lease_seconds / _RENEWALS_A_LEASE
        keep_renewing(self._renew, self._ended, what="visit", seconds=seconds)

    def _renew(self) -> None:
        asked_at = self._clock()
        if self._ledger.renew_visit(self._visit):
            self.note_renewal(asked_at)
        else:
            self._is_lost = True
            self._ended.set()
