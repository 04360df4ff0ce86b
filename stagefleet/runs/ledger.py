r"""Contract of the ledger, in five Protocols; `RedisLedger` and `testing.MemoryLedger` implement it.

The ledger is the source of truth for runs. Celery carries messages, but whatever the broker loses, duplicates
or delivers late, an item has exactly one outcome:

- An item is *pending* (not released, published or waiting for a retry), *claimed*, or done.
- A message only says "look at item i of run r"; `claim` decides. It gives the item to one worker, with a
  lease and a fencing token, and returns None for every other message.
- An item counts against the run's `parallel` from its publication until its outcome is acknowledged: by
  `acknowledge` if the run has a callback, by the finish itself if it has none. Items that wait for a retry do
  not count.
- Each step that frees a place also publishes the next messages.
- An item `ITEM\x1fHOST` is published to the queue of that host; the claim separates the two. Shares do not
  limit such a run: a slow host must not delay the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from stagefleet import errors
from stagefleet.redaction import quoted
from stagefleet.redis_client import LastStep
from stagefleet.runs import models


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to carry out one attempt at an item.

    Attributes:
        index: The item's number in the run, from 0.
        fence: The fencing token: a finish with an older one changes nothing.
        claimed_at: Time before the request for the claim, on this process's monotonic clock.
        lease_until: End of the first lease, on the same clock.
        nonce: Tells the claim from another with the same fence, which Redis may issue again after data loss.
    """

    run_id: str
    index: int
    item: str
    fence: int
    attempt: int
    claimed_at: float
    lease_until: float
    host: str | None = None
    nonce: str = ""

    @property
    def token(self) -> str:
        """Token for the whole claim in the ledger; no other claim ever has the same."""
        return f"{self.fence} {self.nonce}"

    @property
    def seconds(self) -> float:
        """Time since the claim."""
        return time.monotonic() - self.claimed_at


@dataclass(frozen=True, slots=True)
class CoordinatorClaim:
    """A detached coordinator's right to make the callbacks of one run.

    Attributes:
        epoch: Fences off another coordinator.
        failures: Successive coordinations that failed.
        failing_seconds: Time since the first of them; 0 if the last one succeeded.
    """

    run_id: str
    epoch: int
    failures: int = 0
    failing_seconds: float = 0.0
    lease_seconds: float = 30.0


def no_run(run_id: str) -> errors.RunNotFoundError:
    """Build the error for a run that does not exist."""
    return errors.RunNotFoundError(
        f"there is no run {quoted(run_id)}, or it has expired: see stagefleet runs list"
    )


def key_conflict(key: str | None, run_id: str) -> errors.KeyConflictError:
    """Build the error for a key that was used with other arguments."""
    return errors.KeyConflictError(
        f"the idempotency key {key!r} belongs to run {run_id}, which was started with other arguments: use "
        "another key for other work"
    )


def cannot_pause(run_id: str, state: str) -> errors.UsageError:
    """Build the error for a run whose items do not start any more."""
    told = "is being cancelled" if state == models.RunState.CANCELLING else f"has ended: it is {state}"
    return errors.UsageError(f"run {run_id} {told}, so it can be neither paused nor resumed")


class FinishResult(IntEnum):
    """Result of finishing an attempt."""

    STALE = 0
    """The claim had ended: nothing has changed."""
    RECORDED = 1
    """The item has its outcome."""
    WAITING = 2
    """The item waits for another attempt."""


class RenewalResult(StrEnum):
    """Result of renewing a lease."""

    RUN = "run"
    CANCEL = "cancel"
    """The run was cancelled with `now`: stop, and finish the item as cancelled."""
    LOST = "lost"
    """The claim has ended: stop, and do not finish."""


class SubmitterLedger(Protocol):
    """The part of the ledger that creates runs, and lets their items start."""

    def run_under(self, key: str) -> str | None:
        """Return the run under an idempotency key, None for none; `open` explains its state."""

    def open(
        self,
        spec: models.RunSpec,
        *,
        again: models.Submission | None = None,
        request: str = "",
        replaces: str = "",
        enqueue: bool = False,
    ) -> models.Submission:
        """Open a run, or find the one under the spec's key.

        `again` is this client's own submission, of which the ledger has lost something. If that run is still
        being submitted, it is emptied, to be submitted again from its first item; if it starts early, the
        submission counts what is there, and the rest is to be appended. `request` is the message
        that asks for the run: the sweep publishes it again if this client vanishes before the start. With
        `enqueue` it is published at once: the worker that takes it plans and starts the run, this client
        does not. Of an ended run that it `replaces` it takes the key, and continues nothing.

        Raises:
            KeyConflictError: The key was used with another fingerprint.
        """

    def append(
        self,
        submission: models.Submission,
        items: Sequence[str],
        decided: Sequence[models.Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        """Add items, and outcomes decided without a task (skips); at most some thousands per call.

        The submission holds the expected counts, and is updated with the new ones. A second call with the
        same nonce adds nothing: it is safe to repeat after a lost reply. Each call renews the submitter's
        lease, also one without items. The first items are published if the run starts early.

        Raises:
            TooManyItemsError: The run would have more than `MAX_ITEMS`.
            LeaseLostError: Another submitter has taken over the run.
            LedgerRewoundError: The ledger has fewer items than the submission expects: open it again.
        """

    def start(self, submission: models.Submission) -> None:
        """Close the list of items, and publish the first; a run without items ends at once.

        Raises as `append` does.
        """

    def fail(self, submission: models.Submission, error: models.ErrorInfo) -> None:
        """End a run as failed that has not started; do nothing if another submitter has it.

        It has no items then, and its key is free for other arguments. One that started early is cancelled.
        """

    def set_paused(self, run_id: str, *, paused: bool) -> bool:
        """Let no item of a run start, or let them start again; False if that changes nothing.

        Items under way finish, and what is published is pending again. A paused run stays without its
        coordinator. Raises as `CoordinatorLedger.cancel`, and UsageError if the run ends or has ended.
        """

    def leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        """Yield the items of a finished run that neither succeeded nor were skipped, by index and with it.

        Raises:
            RunNotFoundError: The run does not exist, or expired during the call.
        """


class WorkerLedger(Protocol):
    """The part of the ledger for workers."""

    def spec(self, run_id: str) -> models.RunSpec | None:
        """Read the spec of a run, None if there is none; `IncompatibleVersionError` as of `run`."""

    def claim(self, run_id: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        """Claim an item if it is published and nobody has it; the worker's name is for people.

        The same nonce returns the existing claim again, so that the call is safe to repeat after a lost
        reply; without one, each call has a new one.
        """

    def renew(self, claims: Sequence[Claim]) -> list[RenewalResult]:
        """Extend the leases to a full lease from now, and return the state of each claim."""

    def finish(
        self,
        claim: Claim,
        outcome: models.Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: models.WaitReason | None = None,
        last_step: LastStep | None = None,
    ) -> FinishResult:
        """Record the end of an attempt; `STALE`, which is false, means that nothing changed.

        With `retry_after_seconds` a failure waits that long, at most `RunSettings.longest_pause_seconds`,
        before the next attempt, unless the item's attempts are used up or the run is being cancelled. The run
        stores the latest `reason` for such a wait, shown in `Run.waits`. The ledger sets `outcome.attempts`
        and `host`. An outcome with state `cancelled` is counted, and needs no acknowledgement. What is put
        off to `last_step` is changed in the same step, or, with `STALE`, by its `close`.
        """

    def note_pause(self, claim: Claim, seconds: float, reason: models.WaitReason) -> None:
        """Show in `Run.waits` that a worker with an item waits for some seconds; 0 ends the wait.

        Nothing is shown of a claim that has ended.
        """

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        """Publish a claimed item again without counting the attempt (cancel it if the run is cancelling).

        With `behind`, the index of another item of the run, publish it only after that item has ended;
        until then it is not in the window. Publish it at once if that item has ended or waits for this one.
        """

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[models.ItemState | None]:
        """Return the states of some items of a run, None for each that has not ended; skipped is succeeded.

        In a run that is being cancelled, what neither succeeded nor is under way is cancelled.
        """

    def sweep(self) -> int:
        """Repair all live runs; return the number of items and runs changed.

        - claimed with an expired lease: published again (`WorkerLostError` once attempts are used up;
          cancelled if the run is cancelling);
        - waiting and due: published;
        - published, older than `republish_seconds`, and overtaken by a later message's claim or with the
          queue empty: published again;
        - published for a host that no worker has listened for in a while: failed with `HostLostError`;
        - a run with a callback in a client whose lease has ended: cancelled with `CoordinatorLostError`,
          without further acknowledgements;
        - submitting on request, and the submitter's lease has ended: the request is published again
          (`WorkerLostError` once the run's attempts are used up);
        - submitting to follow a run that does not go on any more, or without request and key, and the
          submitter's lease has ended: cancelled with `CoordinatorLostError`.
        """


class CoordinatorLedger(Protocol):
    """The part of the ledger that watches and cancels runs."""

    def run(self, run_id: str) -> models.Run:
        """Read the state of a run.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
            IncompatibleVersionError: An incompatible release wrote it.
        """

    def runs(self, *, beginning: str = "") -> Iterator[models.Run]:
        """List all runs, or those whose ids begin with a text, the newest first.

        An unreadable one is `UNREADABLE`, and does not hide others.
        """

    def outcomes(
        self, run_id: str, after: str, *, limit: int, block_seconds: float
    ) -> list[models.Outcome] | None:
        """Read outcomes after a position ("" is the beginning), in the order of completion.

        Waits up to `block_seconds` for the first one; [] if none came, None if there are no more for good.

        Raises:
            RunNotFoundError: The run does not exist, or has expired.
            LedgerRewoundError: The ledger has lost the outcome at that position: later outcomes may not be
            all that the caller lacks.
        """

    def coordinate(self, run_id: str) -> int:
        """Become the run's coordinator: a new epoch, which fences off the previous coordinator, and a lease.

        An epoch is never used twice, even if the ledger has lost one.
        """

    def acknowledge(
        self, run_id: str, epoch: int, outcomes: Sequence[models.Outcome], *, before: str = ""
    ) -> bool:
        """Acknowledge outcomes that were read directly after the last acknowledged one; renew the lease.

        Without outcomes it only renews. Repeating an acknowledgement changes nothing. The ledger counts its
        own outcomes up to the last of these, so that a lost acknowledgement is made up for. `before` is the
        position of the outcome that the caller acknowledged last, "" for none.

        Returns:
            False if another coordinator has a newer epoch, or the run has ended.

        Raises:
            LedgerRewoundError: The ledger has lost the epoch, or outcomes that were read: call `coordinate`
            again, and read on from `acknowledged`.
        """

    def acknowledged(self, run_id: str) -> str:
        """Return the position of the last acknowledged outcome, "" for none."""

    def cancel(self, run_id: str, *, now: bool = False, error: models.ErrorInfo | None = None) -> bool:
        """Cancel a run: pending items become cancelled, no more items start; False if it had ended.

        With `now`, items under way stop at their next renewal instead of being finished. With an error, which
        the run stores, outcomes need no acknowledgement any more.

        Raises:
            RunNotFoundError: The run does not exist.
            IncompatibleVersionError: An incompatible release wrote it; the run goes on.
        """


class CallbackLedger(Protocol):
    """The part of the ledger for callbacks of detached runs.

    A coordinator of such a run starts on a message and ends when no callback is due: no thread waits. The
    step that records an outcome, or ends the run, publishes a message (`index` is none) to the queue
    `coordinate`, unless one is under way, a coordinator is at work, or the run is paused. The sweep replaces
    lost messages and ends due pauses, once per lease.
    """

    def claim(self, run_id: str) -> CoordinatorClaim | None:
        """Become the coordinator of a run after a message, with a lease, which an acknowledgement renews.

        None if another coordinator is at work, the run is paused, or no callback is due.
        """

    def renew(self, claim: CoordinatorClaim) -> bool:
        """Extend the claim's lease to a full lease from now, even if the run has ended meanwhile.

        False if another coordinator has taken over; so do the three methods below.
        """

    def release(self, claim: CoordinatorClaim) -> bool:
        """End the coordination; if callbacks are due, publish the next coordinator's message."""

    def pause(self, claim: CoordinatorClaim, seconds: float, reason: models.WaitReason | None = None) -> bool:
        """End the coordination as a failure, and let the next coordinator start after some seconds.

        An acknowledgement resets the count of failures. `Run.waits` shows the reason meanwhile.
        """

    def finish(self, claim: CoordinatorClaim) -> bool:
        """End the coordination for good: the run has ended, and its receiver has been called."""


class HeartbeatLedger(Protocol):
    """Live workers, by which shares of the fleet are measured."""

    def ping(self) -> None:
        """Raise `RedisUnreachableError` if the ledger takes no writes, as a replica or with a full disk."""

    def beat(self, worker: models.WorkerInfo, *, seconds: float, counts: Mapping[str, int] = ...) -> None:
        """Record that a worker lives for the next seconds, 0 signs it off, and add what it has counted."""

    def workers(self, queue: str | None = None) -> list[models.WorkerInfo]:
        """List the live workers (of a queue)."""

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        """Take a role in the fleet for some seconds, or keep it; True if `holder` has it now."""


class Ledger(SubmitterLedger, WorkerLedger, CoordinatorLedger, Protocol):
    """All parts of the ledger."""

    @property
    def callbacks(self) -> CallbackLedger:
        """Its part for callbacks of detached runs."""

    @property
    def heartbeats(self) -> HeartbeatLedger:
        """Its part for live workers."""

    def close(self) -> None:
        """Close its connections."""
