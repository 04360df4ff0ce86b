r"""What the ledger promises, in five Protocols; `RedisLedger` and `testing.MemoryLedger` keep the promises.

The ledger is the truth about runs. Celery carries messages, but whatever the broker loses, doubles or
delivers late, an item has exactly one outcome:

- An item is *pending* (not released, published or waiting for a retry), *claimed*, or done.
- A message only says "look at item i of run r": `claim` decides. It gives the item to one worker, with a
  lease and a fencing token, and answers None to every other message.
- An item counts against the run's `parallel` from its publication until its outcome is acknowledged: by
  `acknowledge` where the run has a callback, by the finish itself where it has none. Items that wait for a
  retry do not count.
- Everything that frees a place publishes the next messages in the same step.
- An item `ITEM\x1fHOST` is published to the queue of that host; the claim tells the two apart. Shares do not
  bound such a run: a host that is slow must not hold up the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from typing import Protocol

from stagefleet.runs.model import (
    Claim,
    ErrorInfo,
    ItemState,
    Order,
    Outcome,
    Run,
    Submission,
    Visit,
    WorkerInfo,
)
from stagefleet.runs.waits import WaitReason

__all__ = ["Attendance", "Finish", "Ledger", "Observer", "Renewal", "Submitter", "Switchboard", "Workbench"]


class Finish(IntEnum):
    """What became of the end of an attempt."""

    STALE = 0
    """The claim was over: nothing has changed."""
    RECORDED = 1
    """The item has its outcome."""
    WAITING = 2
    """The item waits for another attempt."""


class Renewal(StrEnum):
    """The answer to the renewal of a lease."""

    RUN = "run"
    CANCEL = "cancel"
    """The run was cancelled with `now`: stop, and finish the item as cancelled."""
    LOST = "lost"
    """The claim is over: stop, and do not finish."""


class Submitter(Protocol):
    """The side of the ledger that writes runs."""

    def has_key(self, key: str) -> bool:
        """Whether a run stands under an idempotency key; `open` says what it means."""

    def open(self, order: Order, *, again: Submission | None = None) -> Submission:
        """Open a run, or find the one under the order's key.

        Args:
            order: What the run is to do.
            again: This client's own submission, of which the ledger has forgotten something: where that run
                is still being submitted, it is emptied, to be submitted from its first item.

        Raises:
            KeyConflictError: The key was used with another fingerprint.
        """

    def append(
        self,
        submission: Submission,
        items: Sequence[str],
        decided: Sequence[Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        """Add items, and outcomes decided without a task (skips); at most some thousands a call.

        The submission says how much is there, and is told how much is there now.

        Args:
            submission: Of the run.
            items: The items.
            decided: The outcomes.
            nonce: Makes the call one that can be repeated when its answer was lost: with the same one as the
                call before nothing is added.

        Raises:
            TooManyItemsError: The run would have more than `MAX_ITEMS`.
            LeaseLostError: Another submitter has taken the run over.
            LedgerRewoundError: Less is there than the submission says: open it again.
        """

    def start(self, submission: Submission) -> None:
        """Close the list of items and publish the first; a run without items ends at once.

        Raises:
            LeaseLostError: Another submitter has taken the run over.
            LedgerRewoundError: Less is there than the submission says: open it again.
        """

    def leftovers(self, run: str) -> Iterator[str]:
        """The items of a finished run that did not succeed and were not skipped, in the order of their index.

        Raises:
            RunNotFoundError: No such run, or it expired meanwhile, so that nobody knows what it left.
        """


class Workbench(Protocol):
    """The side of the ledger that workers use."""

    def order(self, run: str) -> Order | None:
        """Read what a run is to do, None if there is no such run.

        Raises:
            IncompatibleVersionError: It was written by a release that this one cannot read.
        """

    def claim(self, run: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        """Take an item if it is published and nobody has it.

        Args:
            run: The run's id.
            index: The item's number in the run.
            worker: Who claims, for people.
            nonce: Makes the call one that can be repeated when its answer was lost: with the same one the
                claim that stands is given again. A new one each time if None.
        """

    def renew(self, claims: Sequence[Claim]) -> list[Renewal]:
        """Extend the leases to a full lease from now, and learn how each claim stands."""

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: WaitReason | None = None,
    ) -> Finish:
        """Record how an attempt ended.

        With `retry_after_seconds` a failure waits that long, at most `RunSettings.longest_pause_seconds`, and
        is then tried again, unless the item's attempts are used up or the run is being cancelled. The run
        keeps the latest `reason` for such a wait, and shows it in `Run.waits`. `outcome.attempts` and `host`
        are set by the ledger.
        An outcome with state `cancelled` is recorded, counted and needs no acknowledgement.

        Returns:
            What became of it; `STALE`, which is false, changes nothing.
        """

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        """Show in `Run.waits` that a worker which has an item waits for some seconds; 0 takes that back.

        The run keeps the latest such note, if it is of a claim that stands.
        """

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        """Publish a claimed item again without counting the attempt (cancel it if the run is cancelling).

        With `behind`, the index of another item of the run, only once that one has ended, however it ends;
        until then it is neither published nor in the window. At once where that one has ended already, or
        waits for this one.
        """

    def standings(self, run: str, indexes: Sequence[int]) -> list[ItemState | None]:
        """How some items of a run stand, None for each that has not ended.

        Skipped counts as succeeded. Of a run that is being cancelled, all that neither succeeded nor is under
        way is cancelled.
        """

    def numbered_leftovers(self, run: str) -> Iterator[tuple[int, str]]:
        """The items as of `Submitter.leftovers`, each with its index.

        Raises:
            RunNotFoundError: No such run.
        """

    def sweep(self) -> int:
        """Mend what was lost, in all live runs; returns the number of items and runs touched.

        - claimed with an expired lease: published again (`WorkerLostError` once attempts are used up;
          cancelled if the run is cancelling);
        - waiting and due: published;
        - published, older than `republish_seconds`, and overtaken by a later message's claim or with the
          queue empty: published again;
        - published for a host that no worker has listened for in a while: failed with `HostGoneError`;
        - a run whose callback lived in a client whose lease is over: cancelled with `CoordinatorLostError`,
          needing no acknowledgements any more;
        - submitting, without a key, with the submitter's lease over: cancelled with `CoordinatorLostError`.
        """


class Observer(Protocol):
    """The side of the ledger that watches and steers runs."""

    def run(self, run: str) -> Run:
        """How a run stands.

        Raises:
            RunNotFoundError: No such run, or it has expired.
            IncompatibleVersionError: It was written by a release that this one cannot read.
        """

    def runs(self) -> Iterator[Run]:
        """List all runs, the newest first; one that cannot be read is `UNREADABLE`, and hides no other."""

    def ping(self) -> None:
        """See that the ledger can be written to: what can be read may be a replica, or a disk that is full.

        Raises:
            RedisUnreachableError: It cannot, for now.
        """

    def runs_beginning(self, text: str) -> list[str]:
        """Find the ids of runs that begin with a text, sorted; those of expired runs may be among them."""

    def outcomes(self, run: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        """Outcomes behind a position ("" is the beginning), in the order of completion.

        Waits up to `block_seconds` for the first one.

        Returns:
            The outcomes, [] if none came in time, None if the run has ended and there are no more.

        Raises:
            RunNotFoundError: No such run, or it has expired.
            LedgerRewoundError: The ledger has forgotten the outcome at that position: what lies behind it may
                not be all that the caller lacks.
        """

    def coordinate(self, run: str) -> int:
        """Become the run's coordinator: a new epoch, which fences off the coordinator before, and a lease.

        No epoch is given twice, also where the ledger has forgotten one.
        """

    def acknowledge(self, run: str, epoch: int, outcomes: Sequence[Outcome], *, before: str = "") -> bool:
        """Acknowledge outcomes, which were read right behind the last acknowledged one; renews the lease.

        With no outcomes it only renews. Repeating an acknowledgement changes nothing. What is counted are the
        outcomes that the ledger has up to the last of these: an acknowledgement that it forgot is made good.

        Args:
            run: The run's id.
            epoch: The coordinator's.
            outcomes: What was called back, in their order.
            before: The position of the last outcome that the caller has acknowledged before, "" for none.

        Returns:
            False if another coordinator has a newer epoch, or the run has ended.

        Raises:
            LedgerRewoundError: The ledger has forgotten the epoch, or outcomes that were read: `coordinate`
                again, and read on from what is `acknowledged`.
        """

    def acknowledged(self, run: str) -> str:
        """The position of the last acknowledged outcome, "" for none."""

    def cancel(self, run: str, *, now: bool = False, error: ErrorInfo | None = None) -> bool:
        """Cancel a run: pending items become cancelled, nothing new starts.

        Args:
            run: The run's id.
            now: What runs stops at its next renewal instead of finishing.
            error: The error to keep with the run; with it, outcomes need no acknowledgement any more.

        Returns:
            Whether the run was still live.

        Raises:
            RunNotFoundError: No such run.
        """


class Switchboard(Protocol):
    """The side of the ledger that calls back for runs that nobody watches.

    A coordinator of such a run comes when it is called and goes when nothing is left: no thread waits. The
    step that records an outcome, or ends the run, publishes a message (`index` is none) to the queue
    `coordinate`, unless one is under way, a coordinator is there, or the run is paused. What gets lost, and
    what is paused and due, the sweep calls again, once a lease.
    """

    def attend(self, run: str) -> Visit | None:
        """Become the coordinator of a run that was called for, with a lease, as `acknowledge` renews it.

        Returns:
            None if another is there, the run is paused, or nothing is left to do for it.
        """

    def renew_visit(self, visit: Visit) -> bool:
        """Extend the visit's lease to a full lease from now, also where the run has ended meanwhile.

        Returns:
            False if another coordinator is there by now; so do the three below.
        """

    def leave(self, visit: Visit) -> bool:
        """Go; where something is left to do, the next coordinator is called in the same step."""

    def pause(self, visit: Visit, seconds: float, reason: WaitReason | None = None) -> bool:
        """Go, and let the next coordinator come after some seconds; counts as a failure.

        An acknowledgement forgets the failures. `Run.waits` shows the reason meanwhile.
        """

    def conclude(self, visit: Visit) -> bool:
        """Go for good: the run has ended, and who was to be told knows."""

    def run_under(self, key: str) -> str | None:
        """The run under an idempotency key, None for none."""


class Attendance(Protocol):
    """Who works: what shares of the fleet are measured by."""

    def beat(self, worker: WorkerInfo, *, seconds: float) -> None:
        """Say that a worker lives, for the next seconds; 0 signs it off."""

    def workers(self, queue: str | None = None) -> list[WorkerInfo]:
        """The live workers (of a queue)."""

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        """Be the one who has a role in the fleet for some seconds, or go on being it.

        Returns:
            Whether `holder` has it now.
        """


class Ledger(Submitter, Workbench, Observer, Switchboard, Attendance, Protocol):
    """All sides of the ledger."""
