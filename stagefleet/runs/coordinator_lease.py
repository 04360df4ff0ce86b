"""Lease of a coordinator's claim: renewed by a thread, and checked by the calls of the coordination.

While a call lasts, no other coordinator calls; once the lease may have ended, this one makes no more calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stagefleet.errors import LeaseLostError
from stagefleet.leases import keep_renewing
from stagefleet.runs.ledger import CallbackLedger
from stagefleet.runs.models import CoordinatorClaim

__all__ = ["CoordinatorLease"]

_RENEWALS_A_LEASE = 3
_MARGIN_SHARE = 0.1
"""Safety margin, as a fraction of the lease: it counts as lost this long before its end."""
_JOIN_SECONDS = 1.0
"""Longest wait for a renewal under way; a late one does not renew another coordination's lease."""


class CoordinatorLease:
    """The lease of a coordinator's claim, renewed until the end of a `with` block; a `Lease`.

    Args:
        ledger: Renews the lease.
        coordination: The coordination.
        asked_at: Time of the request for the coordination, on the clock.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        ledger: CallbackLedger,
        coordinator_claim: CoordinatorClaim,
        asked_at: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._visit = coordinator_claim
        self._clock = clock
        self._renewed_at = asked_at
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._keep, name=f"coordination-{coordinator_claim.run_id}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)

    def note_renewal(self, asked_at: float) -> None:
        """Record a renewal that was requested at `asked_at` and granted."""
        self._renewed_at = max(self._renewed_at, asked_at)

    def check(self) -> None:
        """Return at once, or raise.

        Raises:
            LeaseLostError: Another coordinator has taken over, or may have.
        """
        age = self._clock() - self._renewed_at
        if self._is_lost or age > self._visit.lease_seconds * (1 - _MARGIN_SHARE):
            raise LeaseLostError(
                f"another coordinator may be calling back for run {self._visit.run_id} by now"
            )

    def require(self, seconds: float) -> None:
        """Check the lease; as it is renewed all the time, it outlasts any call."""
        del seconds
        self.check()

    def _keep(self) -> None:
        seconds = self._visit.lease_seconds / _RENEWALS_A_LEASE
        keep_renewing(self._renew, self._ended, what="coordination", seconds=seconds)

    def _renew(self) -> None:
        asked_at = self._clock()
        if self._ledger.renew_coordination(self._visit):
            self.note_renewal(asked_at)
        else:
            self._is_lost = True
            self._ended.set()
