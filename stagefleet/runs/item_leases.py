"""Leases of claimed items, on the worker's side.

One thread per process renews the leases of all its items, as often as the shortest one requires. A lease
counts on this process's monotonic clock from before the request for it, so that it never ends later here than
in the ledger; and it counts as lost shortly before it ends, without a reply from the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from stagefleet.errors import (
    ItemCancelledError,
    LeaseLostError,
    RedisConfigurationError,
    SettingsError,
    StagefleetError,
    UnreachableError,
    WaitTooLongError,
)
from stagefleet.leases import Renewals
from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import RenewalResult, WorkerLedger
from stagefleet.runs.models import Claim
from stagefleet.runs.waits import WaitReason
from stagefleet.settings import RunSettings

__all__ = ["ItemLease", "LeaseRenewer"]

_MARGIN_SECONDS = 1.0
"""Safety margin: a lease counts as lost at most this long before its end."""
_MARGIN_SHARE = 6
"""Limit of the margin, as a fraction of the lease: a short lease must not be lost when it begins."""
_RENEWALS_A_LEASE = 3

_log = EventLogger(__name__)


class ItemLease:
    """`Lease` of one claimed item."""

    def __init__(self, renewer: LeaseRenewer, claim: Claim) -> None:
        self.claim = claim
        self._renewer = renewer
        self._seconds = claim.lease_until - claim.claimed_at  # the run's: set by its submitter
        self._margin_seconds = min(_MARGIN_SECONDS, self._seconds / _MARGIN_SHARE)
        self._until = claim.lease_until
        self.renew_at = claim.claimed_at + renewer.renewal_seconds(self._seconds)
        self._standing = RenewalResult.RUN
        self._waited_seconds = 0.0

    def check(self) -> None:
        if self._standing is RenewalResult.CANCEL:
            raise ItemCancelledError(f"run {self.claim.run_id} was cancelled")
        if self._renewer.stopping:
            raise ItemCancelledError("the worker has to stop")
        if self._standing is RenewalResult.LOST or time.monotonic() > self._until - self._margin_seconds:
            raise LeaseLostError(
                f"the lease on item {self.claim.item} is over: another worker may have it by now"
            )

    def require(self, seconds: float) -> None:
        self.check()
        if self._outlasts(seconds):
            return
        try:
            self._renewer.renew([self])
        except (UnreachableError, RedisConfigurationError) as error:
            raise LeaseLostError(f"the lease on item {self.claim.item} cannot be renewed: {error}") from error
        self.check()
        if seconds + self._margin_seconds > self._seconds:
            raise SettingsError(
                f"a lease of {self._seconds:g} s is too short for a write that may take {seconds:g} s: raise "
                "runs.lease_seconds, or lower http.connect_timeout_seconds and http.write_timeout_seconds"
            )
        if not self._outlasts(seconds):
            raise LeaseLostError(f"the lease on item {self.claim.item} was renewed too slowly")

    @contextmanager
    def waiting(self, seconds: float, host: str, text: str) -> Iterator[None]:
        reason = WaitReason(host=host, text=text)
        longest = self._renewer.longest_pause_seconds
        if self._waited_seconds >= longest:
            raise WaitTooLongError(
                f"this attempt has waited {self._waited_seconds:.0f} s, and would wait {seconds:.0f} s more "
                f"{reason}: an item waits {longest:g} s at most in one attempt (runs.longest_pause_seconds)",
                retry_after_seconds=seconds,
            )
        began = time.monotonic()
        self._renewer.note_pause(self.claim, seconds, reason)
        try:
            yield
        finally:
            self._waited_seconds += time.monotonic() - began
            self._renewer.note_pause(self.claim, 0, reason)

    @property
    def is_cancelled(self) -> bool:
        """True if the run was cancelled with `now`."""
        return self._standing is RenewalResult.CANCEL

    def note_renewal(self, standing: RenewalResult, asked_at: float) -> None:
        """Apply the result of a renewal requested at `asked_at`. For the renewer. A lost lease stays lost."""
        self.renew_at = asked_at + self._renewer.renewal_seconds(self._seconds)
        if self._standing is not RenewalResult.LOST:
            self._standing, self._until = standing, asked_at + self._seconds

    def _outlasts(self, seconds: float) -> bool:
        return time.monotonic() + seconds <= self._until - self._margin_seconds


class LeaseRenewer:
    """Renew the leases of all items that this process holds.

    Args:
        ledger: Renews claims.
        settings: Longest interval of renewals.
    """

    def __init__(self, ledger: WorkerLedger, settings: RunSettings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._held: set[ItemLease] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.stopping = False

    @contextmanager
    def renewing(self, claim: Claim) -> Iterator[ItemLease]:
        """Renew a claim's lease until the block ends."""
        lease = ItemLease(self, claim)
        with self._changed:
            self._held.add(lease)
            self._changed.notify_all()  # its renewal may be due before the others'
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="lease-renewer", daemon=True)
                self._thread.start()
        try:
            yield lease
        finally:
            with self._changed:
                self._held.discard(lease)

    @property
    def count(self) -> int:
        """Number of items that this process holds."""
        return len(self._held)

    def renewal_seconds(self, lease_seconds: float) -> float:
        """Return the interval of renewing a lease: a run's lease may be shorter than this worker's."""
        return min(self._settings.renewal_seconds, lease_seconds / _RENEWALS_A_LEASE)

    def renew(self, leases: list[ItemLease]) -> None:
        """Renew some leases now.

        Raises:
            RedisUnreachableError: The ledger does not answer; the leases run on.
        """
        asked_at = time.monotonic()
        answers = self._ledger.renew([lease.claim for lease in leases])
        for lease, standing in zip(leases, answers, strict=True):
            lease.note_renewal(standing, asked_at)

    @property
    def longest_pause_seconds(self) -> float:
        """Longest time that an item may wait in one attempt, all its waits together."""
        return self._settings.longest_pause_seconds

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        """Show in the run that an item waits; ignore an unreachable ledger."""
        try:
            self._ledger.note_pause(claim, seconds, reason)
        except StagefleetError as error:
            _log.debug("pause_not_noted", action="pause", error=str(error))

    def stop_all(self) -> None:
        """Make every lease report that the worker has to stop."""
        self.stopping = True

    def close(self) -> None:
        """Stop the renewal thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=self._settings.renewal_seconds)

    def _renew_all(self) -> None:
        renewals = Renewals("leases")
        while (leases := self._due_leases()) is not None:
            pause = renewals.attempt(partial(self.renew, leases))
            if pause is not None:
                again_at = time.monotonic() + min(pause, self._settings.renewal_seconds)
                for lease in leases:
                    lease.renew_at = again_at

    def _due_leases(self) -> list[ItemLease] | None:
        """Wait until a renewal is due and return all leases; None at the end."""
        with self._changed:
            while not self._closed:
                due_at = min((lease.renew_at for lease in self._held), default=None)
                left_seconds = None if due_at is None else due_at - time.monotonic()
                if left_seconds is not None and left_seconds <= 0:
                    return list(self._held)
                self._changed.wait(left_seconds)
        return None
