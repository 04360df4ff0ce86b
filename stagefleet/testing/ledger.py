"""The ledger in memory: implements `stagefleet.runs.ledger` for tests without Redis and without delays.

Its broker is a deque of messages that a test delivers, drops or duplicates; its clock is a callable that a
test controls. The Redis ledger passes the same contract suite.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from stagefleet.errors import (
    KeyConflictError,
    LeaseLostError,
    LedgerRewoundError,
    RunNotFoundError,
    TooManyItemsError,
)
from stagefleet.runs import dispatch
from stagefleet.runs.ledger import Finish, Renewal
from stagefleet.runs.model import (
    MAX_ITEMS,
    Claim,
    ErrorInfo,
    Fate,
    Order,
    Outcome,
    Run,
    RunState,
    Submission,
    split_host,
)
from stagefleet.runs.waits import WaitReason, bounded_pause
from stagefleet.runs.wire import bounded
from stagefleet.settings import RunSettings
from stagefleet.testing.attendance import MemoryAttendance
from stagefleet.testing.items import MemoryItems
from stagefleet.testing.record import RunRecord
from stagefleet.testing.stream import next_number
from stagefleet.testing.sweeper import MemorySweeper
from stagefleet.testing.switchboard import MemorySwitchboard, Message

__all__ = ["MemoryLedger", "Message"]


class MemoryLedger(MemorySwitchboard, MemoryItems, MemoryAttendance, MemorySweeper):
    """A thread-safe ledger for one process, with all data in memory.

    Args:
        settings: Leases, attempts and retention; the defaults if None.
        clock: Returns seconds since 1970; a test may pass one that it controls.
        broker: The queue of messages, oldest first; a new deque if None. Tests take messages from its left,
            drop them, or append them again.
        queue_of: Returns the queue of an operation; a run's share is computed per queue.
    """

    def __init__(
        self,
        settings: RunSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        broker: deque[Message] | None = None,
        queue_of: Callable[[str], str] = dispatch.queue_of,
    ) -> None:
        super().__init__()
        self.broker: deque[Message] = deque() if broker is None else broker
        self._settings = RunSettings() if settings is None else settings
        self._clock = clock
        self._queue_of = queue_of
        self._changed = threading.Condition(threading.RLock())
        self._records: dict[str, RunRecord] = {}
        self._live: dict[str, RunRecord] = {}
        self._finished: deque[RunRecord] = deque()
        self._keys: dict[str, str] = {}
        self._overtaking: dict[str, float] = {}

    # Submitter

    def has_key(self, key: str) -> bool:
        with self._step():
            return self._keys.get(key) in self._records

    def open(self, order: Order, *, again: Submission | None = None) -> Submission:
        with self._step() as now:
            own = None if again is None else self._records.get(again.run)
            if again and own and own.state is RunState.SUBMITTING and own.token <= again.token:
                previous = None if own.order.parent == order.parent else own.order.parent
                return self._take_over(own, previous, now)
            old = self._records.get(self._keys.get(order.key, "")) if order.key else None
            return self._open_new(order, Fate.NEW, now) if old is None else self._open_under(order, old, now)

    def _open_under(self, order: Order, old: RunRecord, now: float) -> Submission:
        """Open a run again under the key of an existing one."""
        if old.order.fingerprint != order.fingerprint:
            raise KeyConflictError(
                f"the idempotency key {order.key!r} was used for run {old.id} with other arguments: "
                "choose another key, or repeat the arguments of that run"
            )
        if old.state is RunState.SUBMITTING and old.submitter_until <= now:
            return self._take_over(old, None, now)
        if not old.state.is_final:
            return Submission(old.id, Fate.ATTACHED)
        if old.state is RunState.SUCCEEDED:
            return Submission(old.id, Fate.SUCCEEDED)
        if not old.started:  # cancelled before all items were submitted
            return self._open_new(order, Fate.NEW, now)
        return self._open_new(order.model_copy(update={"parent": old.id}), Fate.CONTINUED, now)

    def append(
        self,
        submission: Submission,
        items: Sequence[str],
        decided: Sequence[Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        with self._step() as now:
            record = self._submitted(submission)
            if nonce is not None and record.appended == nonce:
                submission.items, submission.decided = len(record.items), record.decided
                return
            if record.state is not RunState.SUBMITTING:
                raise LeaseLostError(f"run {record.id} takes no more items: it is {record.state}")
            self._check_believed(record, submission)
            if record.total + len(items) + len(decided) > MAX_ITEMS:
                raise TooManyItemsError(f"a run has at most {MAX_ITEMS:,} items: split this one into several")
            record.append(items, [bounded(outcome) for outcome in decided])
            record.appended = nonce
            self._lease(record, now)
            submission.items, submission.decided = len(record.items), record.decided

    def start(self, submission: Submission) -> None:
        """Start a run; a second start changes nothing."""
        with self._step() as now:
            record = self._submitted(submission)
            if record.state is RunState.SUBMITTING:
                self._check_believed(record, submission)
                record.state, record.started = RunState.RUNNING, True
                self._lease(record, now)

    # Workbench

    def order(self, run: str) -> Order | None:
        with self._step():
            record = self._records.get(run)
            return None if record is None else record.order

    def claim(self, run: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        """Claim an item; the worker's name is ignored."""
        del worker
        nonce = secrets.token_hex(8) if nonce is None else nonce
        claimed_at = time.monotonic()
        with self._step() as now:
            record = self._live.get(run)
            if record is None:
                return None
            hold = record.claim(index, now, self._settings.lease_seconds, nonce)
            if hold is None:
                return None
            item, host = split_host(record.items[index])
            queue = self._queue(record) if host is None else dispatch.host_queue(host)
            self._overtaking[queue] = max(self._overtaking.get(queue, 0), hold.published_at)
            return Claim(
                run=run,
                index=index,
                item=item,
                host=host,
                fence=hold.fence,
                attempt=hold.attempt,
                claimed_at=claimed_at,
                lease_until=claimed_at + self._settings.lease_seconds,
                nonce=nonce,
            )

    def renew(self, claims: Sequence[Claim]) -> list[Renewal]:
        with self._step() as now:
            return [self._renew(claim, now) for claim in claims]

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: WaitReason | None = None,
    ) -> Finish:
        with self._step() as now:
            record = self._live.get(claim.run)
            if record is None or not record.holds(claim):
                return Finish.STALE
            retry_at = None
            if retry_after_seconds is not None:
                retry_at = now + bounded_pause(retry_after_seconds, self._settings)
            named = bounded(outcome.model_copy(update={"host": claim.host}))
            why = WaitReason() if reason is None else reason.bounded()
            return record.finish(claim.index, named, retry_at, why)

    def note_pause(self, claim: Claim, seconds: float, reason: WaitReason) -> None:
        with self._step() as now:
            record = self._live.get(claim.run)
            if record is not None and record.holds(claim):
                record.note_pause(claim.index, now + seconds, reason.bounded() if seconds > 0 else None)

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        with self._step() as now:
            record = self._live.get(claim.run)
            if record is None or not record.holds(claim):
                return False
            record.hand_back(claim.index, now, behind)
            return True

    # Observer

    def run(self, run: str) -> Run:
        with self._step() as now:
            return replace(self._found(run).snapshot(now), lease_seconds=self._settings.lease_seconds)

    def runs(self) -> Iterator[Run]:
        with self._step() as now:
            return iter([record.snapshot(now) for record in reversed(self._records.values())])

    def runs_beginning(self, text: str) -> list[str]:
        with self._step():
            return sorted(run for run in self._records if text.isalnum() and run.startswith(text))

    def outcomes(self, run: str, after: str, *, limit: int, block_seconds: float) -> list[Outcome] | None:
        """Return outcomes; `block_seconds` is real time, not the time of `clock`."""

        def has_news() -> bool:
            record = self._found(run)
            return record.stream.place_of(after) != len(record.stream) or record.state.is_final

        with self._changed:
            self._changed.wait_for(has_news, block_seconds)
            record = self._found(run)
            begin = record.stream.place_of(after)
            if begin is None:
                raise LedgerRewoundError(f"outcomes of run {run} were forgotten: read them again")
            outcomes = list(record.stream.between(begin, begin + limit))
            return None if record.state.is_final and not outcomes else outcomes

    def coordinate(self, run: str) -> int:
        with self._step() as now:
            record = self._found(run)
            record.epoch = next_number()
            record.coordinator_until = now + self._settings.lease_seconds
            return record.epoch

    def acknowledge(self, run: str, epoch: int, outcomes: Sequence[Outcome], *, before: str = "") -> bool:
        with self._step() as now:
            record = self._live.get(run)
            if record is None or record.epoch > epoch:
                return False
            place = record.stream.place_of(outcomes[-1].position if outcomes else before)
            if record.epoch != epoch or place is None or record.stream.place_of(before) is None:
                raise LedgerRewoundError(
                    f"what was acknowledged of run {run} was forgotten: coordinate it again"
                )
            record.acknowledge(place)
            record.call_at = now + self._settings.lease_seconds
            record.coordinator_until = now + self._settings.lease_seconds
            return True

    def acknowledged(self, run: str) -> str:
        with self._step():
            return self._found(run).stream.cursor

    def cancel(self, run: str, *, now: bool = False, error: ErrorInfo | None = None) -> bool:
        with self._step():
            record = self._found(run)
            if record.state.is_final:
                return False
            record.cancel(now=now, error=error)
            return True

    # Steps

    @contextmanager
    def _step(self) -> Iterator[float]:
        """Run one atomic step, and publish the items that it released at the end. Yields the time."""
        with self._changed:
            now = self._clock()
            self._forget_workers(now)
            self._expire(now)
            yield now
            self._settle(now)
            self._changed.notify_all()

    def _expire(self, now: float) -> None:
        """Remove runs whose retention has passed."""
        while self._finished and self._finished[0].finished_at is not None:
            record = self._finished[0]
            if record.finished_at is None or record.finished_at + self._settings.retention_seconds > now:
                return
            self._finished.popleft()
            del self._records[record.id]
            if record.order.key and self._keys.get(record.order.key) == record.id:
                del self._keys[record.order.key]

    def _settle(self, now: float) -> None:
        """Finish runs without open items, and publish items where there is room."""
        for record in list(self._live.values()):
            if record.conclude(now):
                del self._live[record.id]
                self._finished.append(record)
        running = [record for record in self._live.values() if record.state is RunState.RUNNING]
        for record in running:
            self._send(record, record.release(self._share(self._queue(record), running), now))
        self._call_coordinators(now)

    def _share(self, queue: str, running: Sequence[RunRecord]) -> int:
        """Return the limit of published, unclaimed items of one run: twice its share of the live slots."""
        slots = sum(worker.slots for worker in self._listening(queue))
        runs = sum(self._queue(record) == queue for record in running)
        return max(1, math.ceil(2 * slots / runs))

    # Parts of single steps

    def _open_new(self, order: Order, fate: Fate, now: float) -> Submission:
        record = RunRecord(secrets.token_hex(8), order, now)
        self._records[record.id] = self._live[record.id] = record
        if order.key:
            self._keys[order.key] = record.id
        self._lease(record, now)
        previous = order.parent if fate is Fate.CONTINUED else None
        return Submission(record.id, fate, record.token, previous)

    def _lease(self, record: RunRecord, now: float) -> None:
        record.submitter_until = record.coordinator_until = now + self._settings.lease_seconds

    def _found(self, run: str) -> RunRecord:
        record = self._records.get(run)
        if record is None:
            raise RunNotFoundError(f"there is no run {run}, or it has expired")
        return record

    def _take_over(self, record: RunRecord, previous: str | None, now: float) -> Submission:
        """Let a new client submit a run again, from its first item."""
        record.empty()
        self._lease(record, now)
        fate = Fate.NEW if previous is None else Fate.CONTINUED
        return Submission(record.id, fate, record.token, previous)

    def _submitted(self, submission: Submission) -> RunRecord:
        record = self._records.get(submission.run)
        if record is None or record.token < submission.token:
            raise LedgerRewoundError(f"run {submission.run} was forgotten: submit it again")
        if record.token != submission.token:
            raise LeaseLostError(f"run {submission.run} is not submitted by this client any more")
        return record

    @staticmethod
    def _check_believed(record: RunRecord, submission: Submission) -> None:
        if (len(record.items), record.decided) != (submission.items, submission.decided):
            raise LedgerRewoundError(f"items of run {record.id} were forgotten: submit it again")

    def _renew(self, claim: Claim, now: float) -> Renewal:
        record = self._live.get(claim.run)
        if record is None or not record.holds(claim):
            return Renewal.LOST
        record.claimed[claim.index].until = now + self._settings.lease_seconds
        return Renewal.CANCEL if record.stops_now else Renewal.RUN
