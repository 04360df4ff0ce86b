"""One run in memory: the data of `MemoryLedger` about it, and the transitions of its items.

This module has no locks, clocks or brokers: the ledger passes the time, and publishes what `release` returns.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stagefleet.errors import HostLostError, StagefleetError, WorkerLostError
from stagefleet.names import HOST_SEPARATOR, split_host
from stagefleet.runs import models
from stagefleet.runs.ledger import Claim, FinishResult
from stagefleet.testing import run_items

_SUCCESSES = frozenset({models.ItemState.SUCCEEDED, models.ItemState.SKIPPED})


@dataclass(slots=True)
class RunRecord:
    """The data of one run.

    Every item below `unreleased` is in exactly one of `published`, `claimed`, `waiting`, `behind` and
    `ends`; items from `unreleased` on are in none of them. Outcomes that are `unacknowledged` keep the run
    open; those of them in `held`, which had a task, still count in the window.
    """

    id: str
    spec: models.RunSpec
    created_at: float
    token: int = field(default_factory=run_items.next_number)
    epoch: int = 0
    submitter_until: float = 0.0
    coordinator_until: float = 0.0
    state: models.RunState = models.RunState.SUBMITTING
    started: bool = False
    paused: bool = False
    hosted: bool = False
    appended: str | None = None
    request: str = ""
    follows: str = ""
    requested: int = 0
    requested_at: float = 0.0
    items: list[str] = field(default_factory=list)
    decided: int = 0
    unreleased: int = 0
    published: dict[int, float] = field(default_factory=dict)  # when its message was pushed
    claimed: dict[int, run_items.MemoryClaim] = field(default_factory=dict)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    behind: run_items.PostponedItems = field(default_factory=run_items.PostponedItems)
    ends: dict[int, models.ItemState] = field(default_factory=dict)
    attempts_ended: Counter[int] = field(default_factory=Counter)
    counts: Counter[models.ItemState] = field(default_factory=Counter)
    stream: run_items.OutcomeStream = field(default_factory=run_items.OutcomeStream)
    unacknowledged: int = 0
    held: int = 0
    fence: int = 0
    swept_at: float | None = None
    stops_now: bool = False
    needs_acknowledgement: bool = False
    bytes: int = 0
    error: models.ErrorInfo | None = None
    finished_at: float | None = None
    coordinator: run_items.Coordinator | None = None
    call_at: float = 0.0
    failures: int = 0
    failing_since: float | None = None
    retry_reason: models.WaitReason = field(default_factory=models.WaitReason)
    callback_reason: models.WaitReason = field(default_factory=models.WaitReason)
    pause: tuple[int, models.Wait] | None = None

    def __post_init__(self) -> None:
        self.needs_acknowledgement = self.spec.callback is not models.Callback.NONE
        self.coordinator = run_items.Coordinator.ABSENT if self.spec.is_called_back else None

    @property
    def total(self) -> int:
        """The number of items, and of outcomes decided without a task."""
        return len(self.items) + self.decided

    @property
    def takes_claims(self) -> bool:
        """True if items may be claimed: it is running, or starts before its list of items is complete."""
        is_early = self.state is models.RunState.SUBMITTING and self.spec.starts_early
        return is_early or self.state is models.RunState.RUNNING

    def take_over(self) -> None:
        """Fence off its submitter, and remove its items unless they may have started."""
        if self.spec.starts_early:
            self.token = run_items.next_number()
        else:
            self.empty()

    def empty(self) -> None:
        """Remove all items, and fence off their submitter."""
        self.token = run_items.next_number()
        self.items.clear()
        self.stream = run_items.OutcomeStream()
        self.counts.clear()
        self.decided = self.unacknowledged = 0

    def fail(self, error: models.ErrorInfo) -> None:
        """End as failed, before the start; one that has started early is cancelled for the same reason."""
        if self.spec.starts_early and self.total:
            self.cancel(now=False, error=error)
            return
        self.empty()
        self.state, self.error = models.RunState.RUNNING, error

    def append(self, items: Sequence[str], decided: Sequence[models.Outcome]) -> None:
        """Add items, and outcomes that need no task."""
        self.hosted = self.hosted or any(HOST_SEPARATOR in item for item in items)
        self.items.extend(items)
        self.decided += len(decided)
        for outcome in decided:
            self.counts[outcome.state] += 1
            self._record(outcome.model_copy(update={"attempts": 0}))

    def release(self, share: int, now: float) -> list[int]:
        """Publish as many items as window and share allow, due retries first; return them."""
        if self.paused:
            return []
        for index in self.behind.release(self.ends):
            heapq.heappush(self.waiting, (now, index))
        window = max(1, self.spec.parallel) - len(self.published) - len(self.claimed) - self.held
        if self.hosted:
            share = window + len(self.published)  # a slow host must not delay the others
        released = []
        for _ in range(min(window, share - len(self.published))):
            if self.waiting and self.waiting[0][0] <= now:
                index = heapq.heappop(self.waiting)[1]
            elif self.unreleased < len(self.items):
                index = self.unreleased
                self.unreleased += 1
            else:
                break
            self.published[index] = now
            released.append(index)
        return released

    def pause_items(self) -> None:
        """Take back what is published, and publish nothing until the run goes on."""
        self.paused = True
        for index, published_at in self.published.items():
            heapq.heappush(self.waiting, (published_at, index))
        self.published.clear()

    def claim(self, index: int, now: float, lease_seconds: float, nonce: str) -> run_items.MemoryClaim | None:
        """Claim a published item; None for any other. The same nonce returns the same claim."""
        published_at = self.published.pop(index, None)
        if published_at is None:
            held = self.claimed.get(index)
            if held is None or held.nonce != nonce:
                return None
            held.until = now + lease_seconds
            return held
        self.fence += 1
        held = run_items.MemoryClaim(
            self.fence, 1 + self.attempts_ended[index], now + lease_seconds, nonce, published_at
        )
        self.claimed[index] = held
        return held

    def holds(self, claim: Claim) -> bool:
        """Return True if a claim is the current claim of its item."""
        held = self.claimed.get(claim.index)
        return held is not None and (held.fence, held.nonce) == (claim.fence, claim.nonce)

    def finish(
        self,
        index: int,
        outcome: models.Outcome,
        retry_at: float | None,
        reason: models.WaitReason | None = None,
    ) -> FinishResult:
        """End the attempt at a claimed item, and the item too unless `retry_at` is set."""
        held = self.claimed.pop(index)
        self.attempts_ended[index] += 1
        if (
            retry_at is not None
            and outcome.state is models.ItemState.FAILED
            and held.attempt < self.spec.max_attempts
            and self.takes_claims
        ):
            heapq.heappush(self.waiting, (retry_at, index))
            self.retry_reason = reason or models.WaitReason()
            return FinishResult.WAITING
        self._end(index, outcome.state)
        self._record(outcome.model_copy(update={"attempts": held.attempt}))
        return FinishResult.RECORDED

    def note_pause(self, index: int, until: float, reason: models.WaitReason | None) -> None:
        """Record that a worker waits with an item, and the reason; None removes the item's own entry."""
        if reason is not None:
            self.pause = (index, models.Wait(models.WaitKind.PAUSE, reason, until))
        elif self.pause is not None and self.pause[0] == index:
            self.pause = None

    def hand_back(self, index: int, now: float, behind: int | None = None) -> None:
        """Undo the claim of an item: it is due at once, waits for another, or is cancelled with its run."""
        del self.claimed[index]
        if behind is None or not self.takes_claims or not self.behind.put(index, behind, self.ends):
            self._requeue(index, now)

    def standing(self, index: int) -> models.ItemState | None:
        """Return the final state of an item; None if it has not ended."""
        end = self.ends.get(index)
        if end is None:
            return None
        if end in _SUCCESSES:
            return models.ItemState.SUCCEEDED
        is_cancelled = self.state in {models.RunState.CANCELLING, models.RunState.CANCELLED}
        return models.ItemState.CANCELLED if is_cancelled else models.ItemState.FAILED

    def expire(self, now: float) -> int:
        """End the attempts whose lease has expired, and count them."""
        expired = [(index, held) for index, held in self.claimed.items() if held.until <= now]
        for index, held in expired:
            if self.takes_claims and held.attempt >= self.spec.max_attempts:
                error = WorkerLostError(f"{held.attempt} workers vanished while they worked on this item")
                self.finish(index, self._failure(index, error), retry_at=None)
            else:
                del self.claimed[index]
                self.attempts_ended[index] += 1
                self._requeue(index, now)
        return len(expired)

    def extend_leases(self, until: float) -> None:
        """Extend every lease to at least a time, after an outage in which no worker could renew."""
        self.coordinator_until = self.submitter_until = until
        for held in self.claimed.values():
            held.until = until

    def republish(
        self, now: float, older_than_seconds: float, is_lost: Callable[[str | None, float], bool]
    ) -> list[int]:
        """Publish lost messages again, and return their items.

        Args:
            older_than_seconds: The age from which a message may be lost.
            is_lost: Returns True if a message sent at a time to the queue of a host (None: the run's queue)
            cannot be in the queue any more.
        """
        lost = []
        for index, published_at in self.published.items():
            host = split_host(self.items[index])[1]
            if published_at + older_than_seconds <= now and is_lost(host, published_at):
                lost.append(index)
        self.published |= dict.fromkeys(lost, now)
        return lost

    def fail_lost_hosts(self, now: float, older_than_seconds: float, is_gone: Callable[[str], bool]) -> int:
        """Fail the items that wait for a host without workers, and count them."""
        waiting = [
            (index, split_host(self.items[index])[1])
            for index, published_at in self.published.items()
            if published_at + older_than_seconds <= now
        ]
        gone = [(index, host) for index, host in waiting if host is not None and is_gone(host)]
        for index, host in gone:
            del self.published[index]
            error = HostLostError(f"no worker of host {host} is there any more")
            attempts = max(1, self.attempts_ended[index])
            failure = self._failure(index, error).model_copy(update={"attempts": attempts})
            self._end(index, models.ItemState.FAILED)
            self._record(failure)
        return len(gone)

    def acknowledge(self, count: int) -> None:
        """Remove the first `count` outcomes from the window."""
        newly = self.stream.between(self.stream.acknowledged, count)
        awaited = [outcome for outcome in newly if self._needs_acknowledgement(outcome)]
        self.unacknowledged -= len(awaited)
        self.held -= sum(outcome.attempts > 0 for outcome in awaited)
        if count > self.stream.acknowledged:
            self.stream.acknowledged, self.failures, self.failing_since = count, 0, None

    def cancel(self, *, now: bool, error: models.ErrorInfo | None) -> None:
        """Cancel pending items; claimed ones continue, or stop at their next renewal with `now`."""
        self.stops_now = self.stops_now or now
        self.error = self.error or error
        if error is not None:
            self.needs_acknowledgement = False
            self.unacknowledged = self.held = 0
        if self.state is models.RunState.CANCELLING:
            return
        self.state, self.paused = models.RunState.CANCELLING, False
        self.published.clear()
        self.waiting.clear()
        self.behind.clear()
        self.unreleased = len(self.items)
        for index in range(len(self.items)):
            if index not in self.ends and index not in self.claimed:
                self._end(index, models.ItemState.CANCELLED)

    def conclude(self, now: float) -> bool:
        """Finish the run if nothing is left to do; return True if this call finished it."""
        if self.claimed or self.unacknowledged:
            return False
        if self.state is models.RunState.CANCELLING:
            self.state = models.RunState.CANCELLED
        elif self.state is models.RunState.RUNNING and len(self.ends) == len(self.items):
            is_failed = self.counts[models.ItemState.FAILED] or self.error is not None
            self.state = models.RunState.FAILED if is_failed else models.RunState.SUCCEEDED
        else:
            return False
        self.finished_at = now
        return True

    def leftovers(self) -> Iterator[tuple[int, str]]:
        """Iterate over the items that neither succeeded nor were skipped, each with its index."""
        return (
            (index, item) for index, item in enumerate(self.items) if self.ends.get(index) not in _SUCCESSES
        )

    def snapshot(self, now: float, *, lease_seconds: float) -> models.Run:
        """Return the public view of the run."""
        is_paused = self.paused and self.state is models.RunState.RUNNING
        return models.Run(
            id=self.id,
            spec=self.spec,
            state=models.RunState.PAUSED if is_paused else self.state,
            total=self.total,
            succeeded=self.counts[models.ItemState.SUCCEEDED],
            failed=self.counts[models.ItemState.FAILED],
            skipped=self.counts[models.ItemState.SKIPPED],
            cancelled=self.counts[models.ItemState.CANCELLED],
            claimed=len(self.claimed),
            published=len(self.published),
            waiting=len(self.waiting) + len(self.behind),
            bytes=self.bytes,
            error=self.error,
            created_at=self.created_at,
            finished_at=self.finished_at,
            now_at=now,
            lease_seconds=lease_seconds,
            leased_until=max((held.until for held in self.claimed.values()), default=0.0),
            waits=tuple(wait for wait in self._waits() if wait.until > now),
        )

    def _waits(self) -> Iterator[models.Wait]:
        """Iterate over all recorded waits, current and past."""
        if self.waiting:
            yield models.Wait(models.WaitKind.RETRY, self.retry_reason, self.waiting[0][0], len(self.waiting))
        if self.pause is not None:
            yield self.pause[1]
        if self.coordinator is run_items.Coordinator.PAUSED:
            yield models.Wait(
                models.WaitKind.CALLBACK, self.callback_reason, self.call_at, self.unacknowledged
            )

    def _failure(self, index: int, error: StagefleetError) -> models.Outcome:
        item, host = split_host(self.items[index])
        return models.Outcome(
            item=item, host=host, state=models.ItemState.FAILED, error=models.ErrorInfo.of(error)
        )

    def _requeue(self, index: int, now: float) -> None:
        if self.takes_claims:
            heapq.heappush(self.waiting, (now, index))
        else:
            self._end(index, models.ItemState.CANCELLED)

    def _end(self, index: int, state: models.ItemState) -> None:
        self.ends[index] = state
        self.counts[state] += 1
        self.attempts_ended.pop(index, None)

    def _record(self, outcome: models.Outcome) -> None:
        placed = self.stream.add(outcome)
        self.bytes += placed.bytes
        if self._needs_acknowledgement(placed):
            self.unacknowledged += 1
            self.held += placed.attempts > 0

    def _needs_acknowledgement(self, outcome: models.Outcome) -> bool:
        return self.needs_acknowledgement and outcome.state is not models.ItemState.CANCELLED
