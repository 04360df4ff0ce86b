"""The ledger in memory: implements `stagefleet.runs.ledger` for tests without Redis and without delays.

Its broker is a deque of messages that a test delivers, drops or duplicates; its clock is a callable that a
test controls. The Redis ledger passes the same contract suite.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from stagefleet import errors
from stagefleet.bounds import MAX_ITEMS
from stagefleet.names import split_host
from stagefleet.redis_client import LastStep
from stagefleet.runs import messages, models
from stagefleet.runs.ledger import Claim, FinishResult, RenewalResult, cannot_pause, key_conflict
from stagefleet.runs.snapshots import bounded
from stagefleet.settings import RunSettings
from stagefleet.testing import memory_runs
from stagefleet.testing.run_items import Coordinator, next_number
from stagefleet.testing.run_record import RunRecord


class MemoryLedger(memory_runs.MemorySweeper):
    """A thread-safe ledger for one process, with all data in memory.

    Args:
        clock: Returns seconds since 1970; a test may pass one that it controls.
        broker: The queue of messages, oldest first. Tests take messages from its left, drop them, or append
            them again.
        queue_of: Returns the queue of an operation; a run's share is computed per queue.
    """

    def __init__(
        self,
        settings: RunSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        broker: deque[memory_runs.Message] | None = None,
        queue_of: Callable[[str], str] = messages.queue_of,
    ) -> None:
        settings, broker = settings or RunSettings(), deque() if broker is None else broker
        super().__init__(memory_runs.MemoryRuns(settings, clock, broker, queue_of))
        self.broker = self._runs.broker
        self.callbacks = memory_runs.MemoryCallbackLedger(self._runs)
        self.heartbeats = memory_runs.MemoryHeartbeatLedger(self._runs)

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def run_under(self, key: str) -> str | None:
        with self._runs.step():
            return self._runs.keys.get(key)

    def open(
        self,
        spec: models.RunSpec,
        *,
        again: models.Submission | None = None,
        request: str = "",
        replaces: str = "",
        enqueue: bool = False,
    ) -> models.Submission:
        with self._runs.step() as now:
            submission = self._open(spec, again, replaces, now)
            record = self._runs.records[submission.run_id]
            if request and submission.token == record.token:
                record.request = request
                if enqueue:
                    record.submitter_until = record.requested_at = now
                    self._runs.broker.append(memory_runs.Message(record.id, -2))
            return submission

    def _open(
        self, spec: models.RunSpec, again: models.Submission | None, replaces: str, now: float
    ) -> models.Submission:
        own = None if again is None else self._runs.records.get(again.run_id)
        if again and own and own.state is models.RunState.SUBMITTING and own.token <= again.token:
            return self._take_over(own, spec, now)
        old = self._runs.records.get(self._runs.keys.get(spec.key, "")) if spec.key else None
        if old is None:
            return self._open_new(spec, models.SubmissionKind.NEW, now)
        return self._open_under(spec, old, replaces, now)

    def _open_under(
        self, spec: models.RunSpec, old: RunRecord, replaces: str, now: float
    ) -> models.Submission:
        """Open a run again under the key of an existing one."""
        has_done_nothing = old.state is models.RunState.FAILED and not old.started
        if old.spec.fingerprint != spec.fingerprint and not has_done_nothing:
            raise key_conflict(spec.key, old.id)
        if old.state is models.RunState.SUBMITTING and old.submitter_until <= now:
            return self._take_over(old, spec, now)
        if not old.state.is_final:
            return models.Submission(old.id, models.SubmissionKind.ATTACHED)
        if old.id == replaces:
            return self._open_new(spec, models.SubmissionKind.NEW, now)
        if old.state is models.RunState.SUCCEEDED:
            return models.Submission(old.id, models.SubmissionKind.SUCCEEDED)
        if not old.started:  # cancelled before all items were submitted
            return self._open_new(spec, models.SubmissionKind.NEW, now)
        return self._open_new(
            spec.model_copy(update={"parent": old.id}), models.SubmissionKind.CONTINUED, now
        )

    def append(
        self,
        submission: models.Submission,
        items: Sequence[str],
        decided: Sequence[models.Outcome] = (),
        *,
        nonce: str | None = None,
    ) -> None:
        with self._runs.step() as now:
            record = self._submitted(submission)
            if nonce is not None and record.appended == nonce:
                submission.items, submission.decided = len(record.items), record.decided
                return
            if record.state is not models.RunState.SUBMITTING:
                raise errors.LeaseLostError(f"run {record.id} takes no more items: it is {record.state}")
            self._check_believed(record, submission)
            if record.total + len(items) + len(decided) > MAX_ITEMS:
                raise errors.TooManyItemsError(
                    f"a run has at most {MAX_ITEMS:,} items: split this one into several"
                )
            record.append(items, [bounded(outcome) for outcome in decided])
            record.appended = nonce
            self._runs.lease(record, now)
            submission.items, submission.decided = len(record.items), record.decided

    def start(self, submission: models.Submission) -> None:
        """Start a run; a second start changes nothing."""
        with self._runs.step() as now:
            record = self._submitted(submission)
            if record.state is models.RunState.SUBMITTING:
                self._check_believed(record, submission)
                record.state, record.started = models.RunState.RUNNING, True
                self._runs.lease(record, now)

    def fail(self, submission: models.Submission, error: models.ErrorInfo) -> None:
        with self._runs.step():
            record = self._runs.records.get(submission.run_id)
            if record and record.state is models.RunState.SUBMITTING and record.token == submission.token:
                record.fail(error)

    def spec(self, run_id: str) -> models.RunSpec | None:
        with self._runs.step():
            record = self._runs.records.get(run_id)
            return None if record is None else record.spec

    def claim(self, run_id: str, index: int, worker: str, *, nonce: str | None = None) -> Claim | None:
        """Claim an item; the worker's name is ignored."""
        del worker
        nonce = secrets.token_hex(8) if nonce is None else nonce
        claimed_at = time.monotonic()
        with self._runs.step() as now:
            record = self._runs.live.get(run_id)
            if record is None:
                return None
            held = record.claim(index, now, self._runs.settings.lease_seconds, nonce)
            if held is None:
                return None
            item, host = split_host(record.items[index])
            queue = self._runs.queue(record, host)
            self._runs.overtaking[queue] = max(self._runs.overtaking.get(queue, 0), held.published_at)
            return Claim(
                run_id=run_id,
                index=index,
                item=item,
                host=host,
                fence=held.fence,
                attempt=held.attempt,
                claimed_at=claimed_at,
                lease_until=claimed_at + self._runs.settings.lease_seconds,
                nonce=nonce,
            )

    def renew(self, claims: Sequence[Claim]) -> list[RenewalResult]:
        with self._runs.step() as now:
            return [self._renew(claim, now) for claim in claims]

    def finish(
        self,
        claim: Claim,
        outcome: models.Outcome,
        *,
        retry_after_seconds: float | None = None,
        reason: models.WaitReason | None = None,
        last_step: LastStep | None = None,  # noqa: ARG002 - in memory all is changed at once
    ) -> FinishResult:
        with self._runs.step() as now:
            record = self._run_of(claim)
            if record is None:
                return FinishResult.STALE
            pause = retry_after_seconds
            retry_at = None if pause is None else now + self._runs.settings.bounded_pause(pause)
            named = bounded(outcome.model_copy(update={"host": claim.host}))
            return record.finish(claim.index, named, retry_at, reason and reason.bounded())

    def note_pause(self, claim: Claim, seconds: float, reason: models.WaitReason) -> None:
        with self._runs.step() as now:
            if record := self._run_of(claim):
                record.note_pause(claim.index, now + seconds, reason.bounded() if seconds > 0 else None)

    def hand_back(self, claim: Claim, *, behind: int | None = None) -> bool:
        with self._runs.step() as now:
            if record := self._run_of(claim):
                record.hand_back(claim.index, now, behind)
            return record is not None

    def leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        with self._runs.step():
            return iter(list(self._runs.found(run_id).leftovers()))

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[models.ItemState | None]:
        with self._runs.step():
            record = self._runs.records.get(run_id)
            return [
                models.ItemState.SUCCEEDED if record is None else record.standing(index) for index in indexes
            ]

    def run(self, run_id: str) -> models.Run:
        with self._runs.step() as now:
            return self._runs.found(run_id).snapshot(now, lease_seconds=self._runs.settings.lease_seconds)

    def runs(self, *, beginning: str = "") -> Iterator[models.Run]:
        with self._runs.step() as now:
            lease_seconds = self._runs.settings.lease_seconds
            found = [record for run_id, record in self._runs.records.items() if run_id.startswith(beginning)]
            return iter([record.snapshot(now, lease_seconds=lease_seconds) for record in reversed(found)])

    def outcomes(
        self, run_id: str, after: str, *, limit: int, block_seconds: float
    ) -> list[models.Outcome] | None:
        """Return outcomes; `block_seconds` is real time, not the time of `clock`."""

        def has_news() -> bool:
            record = self._runs.found(run_id)
            return record.stream.index_of(after) != len(record.stream) or record.state.is_final

        with self._runs.changed:
            self._runs.changed.wait_for(has_news, block_seconds)
            record = self._runs.found(run_id)
            begin = record.stream.index_of(after)
            if begin is None:
                raise errors.LedgerRewoundError(f"outcomes of run {run_id} were forgotten: read them again")
            outcomes = list(record.stream.between(begin, begin + limit))
            return None if record.state.is_final and not outcomes else outcomes

    def coordinate(self, run_id: str) -> int:
        with self._runs.step() as now:
            record = self._runs.found(run_id)
            record.epoch = next_number()
            record.coordinator_until = now + self._runs.settings.lease_seconds
            return record.epoch

    def acknowledge(
        self, run_id: str, epoch: int, outcomes: Sequence[models.Outcome], *, before: str = ""
    ) -> bool:
        with self._runs.step() as now:
            record = self._runs.live.get(run_id)
            if record is None or record.epoch > epoch:
                return False
            count = record.stream.index_of(outcomes[-1].position if outcomes else before)
            if record.epoch != epoch or count is None or record.stream.index_of(before) is None:
                raise errors.LedgerRewoundError(
                    f"what was acknowledged of run {run_id} was forgotten: coordinate it again"
                )
            record.acknowledge(count)
            record.call_at = record.coordinator_until = now + self._runs.settings.lease_seconds
            return True

    def acknowledged(self, run_id: str) -> str:
        with self._runs.step():
            return self._runs.found(run_id).stream.cursor

    def cancel(self, run_id: str, *, now: bool = False, error: models.ErrorInfo | None = None) -> bool:
        with self._runs.step() as moment:
            record = self._runs.found(run_id)
            if record.state.is_final:
                return False
            record.cancel(now=now, error=error)
            if record.coordinator is Coordinator.PAUSED:
                self._runs.enqueue_coordinator(record, moment)
            return True

    def set_paused(self, run_id: str, *, paused: bool) -> bool:
        with self._runs.step() as now:
            record = self._runs.found(run_id)
            if record.state not in {models.RunState.SUBMITTING, models.RunState.RUNNING}:
                raise cannot_pause(run_id, record.state)
            if record.paused is paused:
                return False
            if paused:
                record.pause_items()
            else:
                record.paused = False
                record.coordinator_until = now + self._runs.settings.lease_seconds
            return True

    def _open_new(self, spec: models.RunSpec, kind: models.SubmissionKind, now: float) -> models.Submission:
        record = RunRecord(secrets.token_hex(8), spec, now)
        self._runs.records[record.id] = self._runs.live[record.id] = record
        if spec.key:
            self._runs.keys[spec.key] = record.id
        if spec.next and spec.next.run_id in self._runs.records:
            self._runs.records[spec.next.run_id].follows = record.id
        previous = spec.parent if kind is models.SubmissionKind.CONTINUED else None
        return self._leased(record, kind, previous, now)

    def _take_over(self, record: RunRecord, spec: models.RunSpec, now: float) -> models.Submission:
        """Let a new client submit a run again: from its first item, unless items may have started."""
        previous = None if record.spec.parent == spec.parent else record.spec.parent
        record.take_over()
        kind = models.SubmissionKind.NEW if previous is None else models.SubmissionKind.CONTINUED
        return self._leased(record, kind, previous, now)

    def _leased(
        self, record: RunRecord, kind: models.SubmissionKind, previous: str | None, now: float
    ) -> models.Submission:
        """Give the client of a run its lease, and the submission that it goes on from."""
        self._runs.lease(record, now)
        lease_seconds = self._runs.settings.lease_seconds
        return models.Submission(
            record.id, kind, record.token, previous, len(record.items), record.decided, lease_seconds
        )

    def _submitted(self, submission: models.Submission) -> RunRecord:
        record = self._runs.records.get(submission.run_id)
        if record is None or record.token < submission.token:
            raise errors.LedgerRewoundError(f"run {submission.run_id} was forgotten: submit it again")
        if record.token != submission.token:
            raise errors.LeaseLostError(f"run {submission.run_id} is not submitted by this client any more")
        return record

    @staticmethod
    def _check_believed(record: RunRecord, submission: models.Submission) -> None:
        if (len(record.items), record.decided) != (submission.items, submission.decided):
            raise errors.LedgerRewoundError(f"items of run {record.id} were forgotten: submit it again")

    def _run_of(self, claim: Claim) -> RunRecord | None:
        """Return the run of a claim; None if the claim has ended."""
        record = self._runs.live.get(claim.run_id)
        return record if record and record.holds(claim) else None

    def _renew(self, claim: Claim, now: float) -> RenewalResult:
        record = self._run_of(claim)
        if record is None:
            return RenewalResult.LOST
        record.claimed[claim.index].until = now + self._runs.settings.lease_seconds
        return RenewalResult.CANCEL if record.stops_now else RenewalResult.RUN
