"""The ledger in memory: the sweep that recovers lost items and runs, live workers, and states of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from stagefleet.errors import CoordinatorLostError
from stagefleet.runs import messages
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, RunState, WorkerInfo, split_host
from stagefleet.settings import RunSettings
from stagefleet.testing.callbacks import Message
from stagefleet.testing.run_record import RunRecord

__all__ = ["MemoryHeartbeatLedger", "MemoryItems", "MemorySweeper"]

# The sweep of the ledger in memory, which recovers lost items and runs.

_HOST_PATIENCE = 3  # multiple of the age from which a message may count as lost
_SWEEPS_MISSED = 3  # so many missed sweeps are no outage


class MemorySweeper:
    """The part of `MemoryLedger` that implements `WorkerLedger.sweep`."""

    broker: deque[Message]
    _settings: RunSettings
    _queue_of: Callable[[str], str]
    _records: dict[str, RunRecord]
    _live: dict[str, RunRecord]
    _overtaking: dict[str, float]
    _swept_at: float | None = None

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def _enqueue_lost_coordinators(self, now: float) -> int:
        raise NotImplementedError

    def _listening(self, queue: str | None) -> list[WorkerInfo]:
        raise NotImplementedError

    def sweep(self) -> int:
        with self._step() as now:
            touched = 0
            for record in self._records.values():
                self._bridge_gap(record, now)
            for record in list(self._live.values()):
                touched += self._cancel_abandoned(record, now)
                touched += record.expire(now) + self._republish(record, now)
            touched += self._enqueue_lost_coordinators(now)
            self._swept_at = now
        return touched

    def _queue(self, record: RunRecord) -> str:
        return self._queue_of(record.spec.operation)

    def _send(self, record: RunRecord, indexes: Sequence[int]) -> None:
        self.broker.extend(Message(record.id, index) for index in indexes)

    def _bridge_gap(self, record: RunRecord, now: float) -> None:
        """Give every holder a full lease if no sweep has run for too long."""
        if self._swept_at is None:
            since = now
        else:
            since = max(record.created_at, self._swept_at) if record.swept_at is None else record.swept_at
        record.swept_at = now
        lease_seconds = self._settings.lease_seconds
        if now - since > max(lease_seconds / 3, _SWEEPS_MISSED * self._settings.sweep_seconds):
            record.extend_leases(now + lease_seconds)
            record.call_at = (
                max(record.call_at, now + lease_seconds) if record.has_coordinator else record.call_at
            )

    def _republish(self, record: RunRecord, now: float) -> int:
        def is_gone(host: str) -> bool:
            return not self._listening(messages.host_queue(host))

        def is_lost(host: str | None, sent_at: float) -> bool:
            if host is not None and is_gone(host):
                return False
            wanted = self._queue(record) if host is None else messages.host_queue(host)
            is_empty = all(self._queue_of_message(message) != wanted for message in list(self.broker))
            return is_empty or sent_at < self._overtaking.get(wanted, 0)

        age = self._settings.republish_seconds
        gone = record.fail_lost_hosts(now, _HOST_PATIENCE * age, is_gone)
        lost = record.republish(now, age, is_lost)
        self._send(record, lost)
        return gone + len(lost)

    def _queue_of_message(self, message: Message) -> str | None:
        record = self._records.get(message.run_id)
        if record is None or not 0 <= message.index < len(record.items):
            return None
        host = split_host(record.items[message.index])[1]
        return self._queue(record) if host is None else messages.host_queue(host)

    def _cancel_abandoned(self, record: RunRecord, now: float) -> int:
        """Cancel a run whose client died, unless another client or a coordinator will continue it."""
        if record.state is RunState.SUBMITTING:
            # The same call with the same key completes it; after a time, none will come.
            redis_retry = self._settings.retention_seconds if record.spec.key else 0
            is_lost = record.submitter_until + redis_retry <= now
        else:
            is_client = record.spec.callback is Callback.CLIENT
            is_lost = is_client and record.needs_acknowledgement and record.coordinator_until <= now
        if is_lost:
            lost = CoordinatorLostError("the client that started this run vanished: start it again")
            record.cancel(now=False, error=ErrorInfo.of(lost))
        return int(is_lost)


# Live workers, of the ledger in memory.


class MemoryHeartbeatLedger:
    """The part of `MemoryLedger` that implements `HeartbeatLedger`."""

    def __init__(self) -> None:
        self._workers: dict[str, tuple[WorkerInfo, float]] = {}
        self._leaders: dict[str, tuple[str, float]] = {}

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def beat(self, worker: WorkerInfo, *, seconds: float) -> None:
        with self._step() as now:
            self._workers[worker.name] = (worker, now + seconds)

    def workers(self, queue: str | None = None) -> list[WorkerInfo]:
        with self._step():
            return self._listening(queue)

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        with self._step() as now:
            leader, until = self._leaders.get(role, (holder, now))
            if leader != holder and until > now:
                return False
            self._leaders[role] = (holder, now + seconds)
            return True

    def ping(self) -> None:
        """Do nothing: memory always takes writes."""

    def _listening(self, queue: str | None) -> list[WorkerInfo]:
        """List the live workers (of a queue), within a step."""
        return [worker for worker, _ in self._workers.values() if queue is None or queue in worker.queues]

    def _forget_workers(self, now: float) -> None:
        """Remove workers whose last heartbeat has expired."""
        self._workers = {name: entry for name, entry in self._workers.items() if entry[1] > now}


# States of items, of the ledger in memory.


class MemoryItems:
    """The part of `MemoryLedger` with the methods of `SubmitterLedger` and `WorkerLedger` that list items."""

    _records: dict[str, RunRecord]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def _found(self, run_id: str) -> RunRecord:
        raise NotImplementedError

    def leftovers(self, run_id: str) -> Iterator[str]:
        return (item for _, item in self.numbered_leftovers(run_id))

    def numbered_leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        with self._step():
            return iter(list(self._found(run_id).leftovers()))

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[ItemState | None]:
        with self._step():
            record = self._records.get(run_id)
            return [ItemState.SUCCEEDED if record is None else record.standing(index) for index in indexes]
