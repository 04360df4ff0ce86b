"""One attempt at one item, as an operation receives it, its result, and the lease that it works under."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from threading import Lock
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from stagefleet import errors
from stagefleet.leases import NO_LEASE, TOLD_SECONDS, Lease, LeaseRenewer, RenewedLease
from stagefleet.logs import EventLogger
from stagefleet.operations.base import Operation
from stagefleet.redis_client import LastStep
from stagefleet.runs.ledger import Claim, Ledger, RenewalResult
from stagefleet.runs.models import NOT_THERE_RESULT, ItemState, ItemTransfer, RunState, WaitReason
from stagefleet.settings import RunSettings

SomeOperation = TypeVar("SomeOperation", bound=Operation)

# Result of an operation on one item.


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Result of one item that did not fail: the description or metadata that it produced.

    It has sent `bytes` to the destination, or is `skipped` if there was nothing to do.
    """

    result: dict[str, Any] | None = None
    bytes: int = 0
    skipped: bool = False


NOT_THERE = ItemResult(dict(NOT_THERE_RESULT), skipped=True)
"""Result of a deletion that found nothing to delete."""


# One attempt at one item, as an operation receives it.

TagsToDelete = Callable[[], Iterable[str]]
"""Returns the tags that a run deletes and has not deleted yet; called rarely."""


@dataclass(frozen=True, slots=True)
class OtherItems:
    """Items of a run, for an attempt that may have to wait for others.

    Attributes:
        own: Index of the current item.
        numbered: Yields the items that have not succeeded yet, each with its index; read from the ledger.
        item_states: Returns the states of items by index, None for each that has not ended.
    """

    own: int
    numbered: Callable[[], Iterator[tuple[int, str]]]
    item_states: Callable[[Sequence[int]], list[ItemState | None]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one item, as an operation receives it; `number` is 1 for the first.

    Attributes:
        operation: The operation that the run's options are, parsed once a run; None if not in the catalog.
        lease: Lease to check often, and before each write.
        to_delete: Returns the tags that the run deletes and has not deleted yet, read from the ledger at
            each call.
        others: State of the run's items; None without a ledger.
        last_step: Takes changes that go along with a successful outcome; None without a ledger.
        continues: True if the run has what another one left, without a look at the storages.
    """

    run_id: str
    item: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    lease: Lease = NO_LEASE
    to_delete: TagsToDelete = tuple
    others: OtherItems | None = None
    number: int = 1
    operation: Operation | None = None
    last_step: LastStep | None = None
    continues: bool = False

    def parsed(self, kind: type[SomeOperation]) -> SomeOperation:
        """Return the operation of the attempt; `UsageError` if this release cannot read the run's options."""
        if isinstance(self.operation, kind):
            return self.operation
        try:
            return kind.model_validate(self.options, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            option = ".".join(map(str, first["loc"]))
            raise errors.UsageError(
                f"the option {option} of run {self.run_id} cannot be read: {first['msg']}"
            ) from None

    def under(self, lease: Lease) -> Attempt:
        """Return the attempt with another lease, such as that of a lock."""
        return replace(self, lease=lease)


BoundItemFunction = Callable[[Attempt], ItemResult]
"""What a worker does for one item, with the storages bound in; it raises its failures."""


# Counts of a worker process, which its heartbeats bring into the ledger.

_MOST_COUNTS = 1000
_OTHER = "other"
_STATUS = re.compile(r"[1-5][0-9]{2}\b")


@lru_cache(maxsize=_MOST_COUNTS)
def _counter_name(kind: str, *labels: str) -> str:
    return " ".join((kind, *("_".join(label.split()) or _OTHER for label in labels)))


class AttemptCounters:
    """Counts of what attempts go through, named as counters of the ledger; thread-safe and bounded."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, number: int, kind: str, *labels: str) -> None:
        """Add to a count, which belongs to others where too many wait for a heartbeat."""
        name = _counter_name(kind, *labels)
        with self._lock:
            is_known = name in self._numbers or len(self._numbers) < _MOST_COUNTS
            self._numbers[name if is_known else f"{kind} {_OTHER}"] += number

    def add_refusal(self, host: str, text: str) -> None:
        """Count an answer that put off a request or ended an attempt; `error` for none at all."""
        status = _STATUS.match(text)
        self.add(1, "refusals", host, status[0] if status else "error")

    def take(self) -> dict[str, int]:
        """Return all counts, and begin again at none."""
        with self._lock:
            taken, self._numbers = self._numbers, Counter()
        return taken

    def put_back(self, counts: Mapping[str, int]) -> None:
        """Add counts again that a heartbeat could not bring into the ledger."""
        with self._lock:
            self._numbers.update(counts)


# Leases of claimed items, on the worker's side.

_MARGIN_SECONDS = 1.0
"""Safety margin: a lease counts as lost at most this long before its end."""
_MARGIN_SHARE = 6
"""Limit of the margin, as a fraction of the lease: a short lease must not be lost when it begins."""

_MOST_TRANSFERS = 16
"""Transfers that one process reports: a heartbeat is small."""

_log = EventLogger(__name__)


class ItemLease(RenewedLease):
    """`Lease` of one claimed item; cancelled for good with its run: with `now`, or as `check_run` finds."""

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
        self._moved_bytes = self._expected_bytes = 0

    def __enter__(self) -> Self:
        self._renewer.add(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self._renewer.discard((self,))

    @property
    def transfer(self) -> ItemTransfer:
        """The bytes of large content that this attempt moves."""
        return ItemTransfer(self.claim.run_id, self.claim.index, self._moved_bytes, self._expected_bytes)

    def note_bytes(self, moved: int, expected: int = 0) -> None:
        with self._waits_lock:
            self._moved_bytes += moved
            self._expected_bytes += expected

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

    def check_run(self) -> None:
        if self._renewer.is_run_cancelling(self.claim):
            self.is_cancelled = True
        self.check()

    def note_progress(self, seconds: float, text: str) -> None:
        self._renewer.note_pause(self.claim, seconds, WaitReason(text=text).bounded())

    @contextmanager
    def waiting(self, seconds: float, host: str, text: str) -> Iterator[None]:
        if host:
            self._renewer.counts.add_refusal(host, text)
        if seconds < TOLD_SECONDS:
            yield
            return
        kind = "registry" if host else "lock" if text else _OTHER
        self._renewer.counts.add(1, "waits", kind)
        began_at = time.monotonic()
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
            self._renewer.counts.add(round((time.monotonic() - began_at) * 1000), "wait_ms", kind)
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

    def __init__(self, ledger: Ledger, settings: RunSettings) -> None:
        super().__init__("leases", self._renew_claims, interval_seconds=settings.renewal_seconds)
        self.stopping = False
        self.longest_pause_seconds = settings.longest_pause_seconds
        self.counts = AttemptCounters()
        self._ledger = ledger

    def renewing(self, claim: Claim) -> ItemLease:
        """Return a claim's lease, which is renewed in its block."""
        return ItemLease(self, claim)

    def transfers(self) -> tuple[ItemTransfer, ...]:
        """Return what the attempts here move now, of those with large content; the largest first."""
        found = [transfer for lease in self.held if (transfer := lease.transfer).expected]
        return tuple(sorted(found, key=lambda transfer: -transfer.expected)[:_MOST_TRANSFERS])

    def stop_all(self) -> None:
        """Make every lease report that the worker has to stop."""
        self.stopping = True

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        """Show in the run that an item waits; ignore an unreachable ledger."""
        try:
            self._ledger.note_pause(claim, seconds, reason)
        except errors.StagefleetError as error:
            _log.debug("pause_not_noted", action="pause", error=str(error))

    def is_run_cancelling(self, claim: Claim) -> bool:
        """Return True if a claim's run is being cancelled; an unreachable ledger says nothing."""
        try:
            return self._ledger.run(claim.run_id).state is RunState.CANCELLING
        except errors.StagefleetError as error:
            _log.debug("run_not_read", action="check", error=str(error))
            return False

    def _renew_claims(self, leases: Sequence[ItemLease]) -> list[bool]:
        answers = self._ledger.renew([lease.claim for lease in leases])
        for lease, answer in zip(leases, answers, strict=True):
            lease.is_cancelled |= answer is RenewalResult.CANCEL and not lease.is_lost
        return [answer is not RenewalResult.LOST for answer in answers]
