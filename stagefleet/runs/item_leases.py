"""Leases of claimed items, on the worker's side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from stagefleet import errors
from stagefleet.leases import LeaseRenewer, RenewedLease
from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import Claim, RenewalResult, WorkerLedger
from stagefleet.runs.models import WaitReason
from stagefleet.settings import RunSettings

_MARGIN_SECONDS = 1.0
"""Safety margin: a lease counts as lost at most this long before its end."""
_MARGIN_SHARE = 6
"""Limit of the margin, as a fraction of the lease: a short lease must not be lost when it begins."""

_log = EventLogger(__name__)


class ItemLease(RenewedLease):
    """`Lease` of one claimed item; cancelled once its run was cancelled with `now`."""

    def __init__(self, renewer: ItemLeaseRenewer, claim: Claim) -> None:
        seconds = claim.lease_until - claim.claimed_at  # the run's: set by its submitter
        super().__init__(
            seconds, claim.claimed_at, margin_seconds=min(_MARGIN_SECONDS, seconds / _MARGIN_SHARE)
        )
        self.claim = claim
        self.is_cancelled = False
        self._renewer = renewer
        self._waits_lock = Lock()
        self._waits = 0
        self._wait_began_at = self._waited_seconds = 0.0

    def check(self) -> None:
        if self.is_cancelled:
            raise errors.ItemCancelledError(f"run {self.claim.run_id} was cancelled")
        if self._renewer.stopping:
            raise errors.ItemCancelledError("the worker has to stop")
        if not self.outlasts(0):
            raise errors.LeaseLostError(
                f"the lease on item {self.claim.item} is over: another worker may have it by now"
            )

    def require(self, seconds: float) -> None:
        self.check()
        if self.outlasts(seconds):
            return
        try:
            self._renewer.renew([self])
        except (errors.UnreachableError, errors.RedisConfigurationError) as error:
            raise errors.LeaseLostError(
                f"the lease on item {self.claim.item} cannot be renewed: {error}"
            ) from error
        self.check()
        if seconds + self.margin_seconds > self.seconds:
            raise errors.SettingsError(
                f"a lease of {self.seconds:g} s is too short for a write that may take {seconds:g} s: raise "
                "runs.lease_seconds, or lower http.connect_timeout_seconds and http.write_timeout_seconds"
            )
        if not self.outlasts(seconds):
            raise errors.LeaseLostError(f"the lease on item {self.claim.item} was renewed too slowly")

    @contextmanager
    def waiting(self, seconds: float, host: str, text: str) -> Iterator[None]:
        reason = WaitReason(host=host, text=text)
        longest = self._renewer.longest_pause_seconds
        with self._waits_lock:
            waited = self._waited_seconds + (time.monotonic() - self._wait_began_at if self._waits else 0)
            if waited >= longest:
                raise errors.WaitTooLongError(
                    f"this attempt has waited {waited:.0f} s, and would wait {seconds:.0f} s more {reason}: "
                    f"an item waits {longest:g} s at most in one attempt (runs.longest_pause_seconds)",
                    retry_after_seconds=seconds,
                )
            self._waits += 1
            if self._waits == 1:
                self._wait_began_at = time.monotonic()
        self._renewer.note_pause(self.claim, seconds, reason)
        try:
            yield
        finally:
            with self._waits_lock:  # requests may wait side by side: their time counts once
                self._waits -= 1
                is_last = self._waits == 0
                if is_last:
                    self._waited_seconds += time.monotonic() - self._wait_began_at
            if is_last:
                self._renewer.note_pause(self.claim, 0, reason)


class ItemLeaseRenewer(LeaseRenewer[ItemLease]):
    """Renew the leases of all items that this process holds; each reports that the worker has to stop.

    An item may wait for `longest_pause_seconds` in one attempt, all its waits together.
    """

    def __init__(self, ledger: WorkerLedger, settings: RunSettings) -> None:
        super().__init__("leases", self._renew_claims, interval_seconds=settings.renewal_seconds)
        self.stopping = False
        self.longest_pause_seconds = settings.longest_pause_seconds
        self._ledger = ledger

    @contextmanager
    def renewing(self, claim: Claim) -> Iterator[ItemLease]:
        """Renew a claim's lease until the block ends."""
        lease = ItemLease(self, claim)
        self.add(lease)
        try:
            yield lease
        finally:
            self.discard([lease])

    def stop_all(self) -> None:
        """Make every lease report that the worker has to stop."""
        self.stopping = True

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        """Show in the run that an item waits; ignore an unreachable ledger."""
        try:
            self._ledger.note_pause(claim, seconds, reason)
        except errors.StagefleetError as error:
            _log.debug("pause_not_noted", action="pause", error=str(error))

    def _renew_claims(self, leases: Sequence[ItemLease]) -> list[bool]:
        answers = self._ledger.renew([lease.claim for lease in leases])
        for lease, answer in zip(leases, answers, strict=True):
            lease.is_cancelled = answer is RenewalResult.CANCEL and not lease.is_lost
        return [answer is not RenewalResult.LOST for answer in answers]
