"""Runs in memory, and the parts of the ledger for callbacks, live workers and the sweep."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from stagefleet.errors import CoordinatorLostError, WorkerLostError
from stagefleet.names import split_host
from stagefleet.runs import messages
from stagefleet.runs.ledger import CoordinatorClaim, no_run
from stagefleet.runs.models import Callback, ErrorInfo, RunState, WaitReason, WorkerInfo
from stagefleet.settings import RunSettings
from stagefleet.testing.run_items import Coordinator, next_number
from stagefleet.testing.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the broker: process an item of a run, coordinate it (-1), or start it on request (-2)."""

    run_id: str
    index: int


class MemoryRuns:
    """All that a ledger in memory knows; the arguments are those of `MemoryLedger`."""

    def __init__(
        self,
        settings: RunSettings,
        clock: Callable[[], float],
        broker: deque[Message],
        queue_of: Callable[[str], str],
    ) -> None:
        self.broker = broker
        self.settings = settings
        self.clock = clock
        self.queue_of = queue_of
        self.changed = threading.Condition(threading.RLock())
        self.records: dict[str, RunRecord] = {}
        self.live: dict[str, RunRecord] = {}
        self.finished: deque[RunRecord] = deque()
        self.keys: dict[str, str] = {}
        self.overtaking: dict[str, float] = {}
        self.workers: dict[str, tuple[WorkerInfo, float]] = {}
        self.leaders: dict[str, tuple[str, float]] = {}
        self.swept_at: float | None = None

    @contextmanager
    def step(self) -> Iterator[float]:
        """Run one atomic step, and publish the items that it released at the end. Yields the time."""
        with self.changed:
            now = self.clock()
            self.workers = {name: entry for name, entry in self.workers.items() if entry[1] > now}
            self._expire(now)
            yield now
            self._finish_ended_runs(now)
            self.changed.notify_all()

    def _expire(self, now: float) -> None:
        """Remove runs whose retention has passed."""
        while self.finished:
            record = self.finished[0]
            if record.finished_at is None or record.finished_at + self.settings.retention_seconds > now:
                return
            self.finished.popleft()
            del self.records[record.id]
            if record.spec.key and self.keys.get(record.spec.key) == record.id:
                del self.keys[record.spec.key]

    def _finish_ended_runs(self, now: float) -> None:
        """Finish runs without open items, and publish items where there is room."""
        for record in list(self.live.values()):
            if record.conclude(now):
                del self.live[record.id]
                self.finished.append(record)
        running = [record for record in self.live.values() if record.takes_claims and not record.paused]
        for record in running:
            self.send(record, record.release(self._share(record, running), now))
        self._request_coordinators(now)

    def _share(self, record: RunRecord, running: Sequence[RunRecord]) -> int:
        """Return the limit of published, unclaimed items of one run: its share of the live slots.

        It is twice that for a run of few items, so that these come before most of a long one.
        """
        queue = self.queue(record)
        slots = sum(worker.slots for worker in self.listening(queue))
        runs = sum(self.queue(other) == queue for other in running)
        left = len(record.items) - record.unreleased + len(record.published)
        return max(1, math.ceil((1 if left > 2 * slots else 2) * slots / runs))

    def lease(self, record: RunRecord, now: float) -> None:
        """Let the run's client have its lease from now on."""
        record.submitter_until = record.coordinator_until = now + self.settings.lease_seconds

    def found(self, run_id: str) -> RunRecord:
        """Return a run, or raise RunNotFoundError."""
        if run_id not in self.records:
            raise no_run(run_id)
        return self.records[run_id]

    def queue(self, record: RunRecord, host: str | None = None) -> str:
        """Return the queue of a run, or of its items for a host."""
        return self.queue_of(record.spec.operation) if host is None else messages.host_queue(host)

    def send(self, record: RunRecord, indexes: Sequence[int]) -> None:
        """Push the messages of items."""
        self.broker.extend(Message(record.id, index) for index in indexes)

    def listening(self, queue: str | None) -> list[WorkerInfo]:
        """List the live workers (of a queue), within a step."""
        return [worker for worker, _ in self.workers.values() if queue is None or queue in worker.queues]

    def enqueue_coordinator(self, record: RunRecord, now: float) -> None:
        """Push the message to a run's next coordinator."""
        record.coordinator = Coordinator.CALLED
        record.call_at = now + self.settings.lease_seconds
        self.broker.append(Message(record.id, -1))

    def _request_coordinators(self, now: float) -> None:
        """Publish a coordination message for each run with something to deliver and no coordinator."""
        for record in self.records.values():
            is_open = record.state is not RunState.SUBMITTING or record.takes_claims
            is_due = record.unacknowledged or record.state.is_final
            if record.coordinator is Coordinator.ABSENT and is_open and is_due:
                self.enqueue_coordinator(record, now)


class MemoryCallbackLedger:
    """`CallbackLedger` for `MemoryLedger`."""

    def __init__(self, runs: MemoryRuns) -> None:
        self._runs = runs

    def claim(self, run_id: str) -> CoordinatorClaim | None:
        with self._runs.step() as now:
            record = self._runs.records.get(run_id)
            if record is None or record.coordinator in {None, Coordinator.ABSENT}:
                return None
            if record.coordinator is Coordinator.PRESENT and record.coordinator_until > now:
                return None
            if record.coordinator is Coordinator.PAUSED and record.call_at > now:
                return None
            record.coordinator = Coordinator.PRESENT
            record.call_at = record.coordinator_until = now + self._runs.settings.lease_seconds
            record.epoch = next_number()
            failing_seconds = 0.0 if record.failing_since is None else now - record.failing_since
            return CoordinatorClaim(
                run_id, record.epoch, record.failures, failing_seconds, self._runs.settings.lease_seconds
            )

    def renew(self, claim: CoordinatorClaim) -> bool:
        with self._runs.step() as now:
            if record := self._claimed_by(claim):
                record.call_at = record.coordinator_until = now + self._runs.settings.lease_seconds
            return record is not None

    def release(self, claim: CoordinatorClaim) -> bool:
        with self._runs.step() as now:
            if record := self._claimed_by(claim):
                record.coordinator = Coordinator.ABSENT
                if len(record.stream) > record.stream.acknowledged or record.state.is_final:
                    self._runs.enqueue_coordinator(record, now)
            return record is not None

    def pause(self, claim: CoordinatorClaim, seconds: float, reason: WaitReason | None = None) -> bool:
        with self._runs.step() as now:
            if record := self._claimed_by(claim):
                record.coordinator, record.call_at = Coordinator.PAUSED, now + seconds
                record.callback_reason = WaitReason() if reason is None else reason.bounded()
                record.failures += 1
                record.failing_since = now if record.failing_since is None else record.failing_since
            return record is not None

    def finish(self, claim: CoordinatorClaim) -> bool:
        with self._runs.step():
            if record := self._claimed_by(claim):
                record.coordinator = None
            return record is not None

    def _claimed_by(self, claim: CoordinatorClaim) -> RunRecord | None:
        record = self._runs.records.get(claim.run_id)
        if record is None or record.epoch != claim.epoch or record.coordinator is not Coordinator.PRESENT:
            return None
        return record


class MemoryHeartbeatLedger:
    """`HeartbeatLedger` for `MemoryLedger`."""

    def __init__(self, runs: MemoryRuns) -> None:
        self._runs = runs

    def beat(
        self, worker: WorkerInfo, *, seconds: float, counts: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        del counts  # nothing shows the metrics of a fleet in memory
        with self._runs.step() as now:
            self._runs.workers[worker.name] = (worker, now + seconds)

    def workers(self, queue: str | None = None) -> list[WorkerInfo]:
        with self._runs.step():
            return self._runs.listening(queue)

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        with self._runs.step() as now:
            leader, until = self._runs.leaders.get(role, (holder, now))
            if leader != holder and until > now:
                return False
            self._runs.leaders[role] = (holder, now + seconds)
            return True

    def ping(self) -> None:
        """Do nothing: memory always takes writes."""


_HOST_LOST_FACTOR = 3  # on the age from which a message may count as lost
_SWEEPS_MISSED = 3  # so many missed sweeps are no outage


class MemorySweeper:
    """`WorkerLedger.sweep` for `MemoryLedger`."""

    def __init__(self, runs: MemoryRuns) -> None:
        self._runs = runs

    def sweep(self) -> int:
        with self._runs.step() as now:
            touched = 0
            for record in self._runs.records.values():
                self._bridge_gap(record, now)
            for record in list(self._runs.live.values()):
                touched += self._cancel_abandoned(record, now)
                touched += record.expire(now) + self._republish(record, now)
            touched += self._enqueue_lost_coordinators(now)
            self._runs.swept_at = now
        return touched

    def _enqueue_lost_coordinators(self, now: float) -> int:
        """Publish again for coordinators that never started, that died, or whose pause is over."""
        due = [
            record
            for record in self._runs.records.values()
            if record.coordinator not in {None, Coordinator.ABSENT} and record.call_at <= now
        ]
        for record in due:
            self._runs.enqueue_coordinator(record, now)
        return len(due)

    def _bridge_gap(self, record: RunRecord, now: float) -> None:
        """Give every holder a full lease if no sweep has run for too long."""
        if self._runs.swept_at is None:
            since = now
        elif record.swept_at is None:
            since = max(record.created_at, self._runs.swept_at)
        else:
            since = record.swept_at
        record.swept_at = now
        lease_seconds = self._runs.settings.lease_seconds
        if now - since > max(lease_seconds / 3, _SWEEPS_MISSED * self._runs.settings.sweep_seconds):
            record.extend_leases(now + lease_seconds)
            if record.coordinator is Coordinator.PRESENT:
                record.call_at = max(record.call_at, now + lease_seconds)

    def _republish(self, record: RunRecord, now: float) -> int:
        def is_gone(host: str) -> bool:
            return not self._runs.listening(messages.host_queue(host))

        def is_lost(host: str | None, sent_at: float) -> bool:
            if host is not None and is_gone(host):
                return False
            wanted = self._runs.queue(record, host)
            is_empty = all(self._queue_of_message(message) != wanted for message in list(self._runs.broker))
            return is_empty or sent_at < self._runs.overtaking.get(wanted, 0)

        age = self._runs.settings.republish_seconds
        gone = record.fail_lost_hosts(now, _HOST_LOST_FACTOR * age, is_gone)
        lost = record.republish(now, age, is_lost)
        self._runs.send(record, lost)
        return gone + len(lost)

    def _queue_of_message(self, message: Message) -> str | None:
        record = self._runs.records.get(message.run_id)
        if record is None or not 0 <= message.index < len(record.items):
            return None
        return self._runs.queue(record, split_host(record.items[message.index])[1])

    def _request_again(self, record: RunRecord, now: float) -> int:
        """Publish the request for a run again whose submitter vanished, unless it waits in its queue."""
        is_due = max(record.submitter_until, record.requested_at + self._runs.settings.lease_seconds) <= now
        if not is_due or any(message.index < 0 for message in list(self._runs.broker)):
            return 0
        record.requested += 1
        record.requested_at = now
        if record.requested >= record.spec.max_attempts:
            lost = WorkerLostError(f"no worker planned the run, in {record.requested} attempts")
            record.fail(ErrorInfo.of(lost))
        else:
            self._runs.broker.append(Message(record.id, -2))
        return 1

    def _cancel_abandoned(self, record: RunRecord, now: float) -> int:
        """Cancel a run whose client died, unless another client or a coordinator will continue it."""
        if record.state is RunState.SUBMITTING and record.request:
            return self._request_again(record, now)
        if record.state is RunState.SUBMITTING:
            leading = self._runs.records.get(record.follows)
            # It has not ended, or its coordinator has yet to start this one.
            if leading and (not leading.state.is_final or leading.coordinator is not None):
                record.submitter_until = now + self._runs.settings.lease_seconds
                return 0
            # The same call with the same key completes it; after a time, none will come.
            is_repeated = record.spec.key and not record.spec.follows
            kept_seconds = self._runs.settings.retention_seconds if is_repeated else 0
            is_lost = record.submitter_until + kept_seconds <= now
        else:
            is_client = record.spec.callback is Callback.CLIENT
            is_held = record.needs_acknowledgement and not record.paused
            is_lost = is_client and is_held and record.coordinator_until <= now
        if is_lost:
            lost = CoordinatorLostError("the client that started this run vanished: start it again")
            record.cancel(now=False, error=ErrorInfo.of(lost))
        return int(is_lost)
