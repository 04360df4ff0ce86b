"""The sweep of the ledger in memory, which recovers lost items and runs."""

from __future__ import annotations

from stagefleet.errors import CoordinatorLostError
from stagefleet.names import split_host
from stagefleet.runs import messages
from stagefleet.runs.models import Callback, ErrorInfo, RunState
from stagefleet.testing.memory_runs import MemoryRuns, Message
from stagefleet.testing.run_items import Coordinator
from stagefleet.testing.run_record import RunRecord

_HOST_PATIENCE = 3  # multiple of the age from which a message may count as lost
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
        else:
            since = (
                max(record.created_at, self._runs.swept_at) if record.swept_at is None else record.swept_at
            )
        record.swept_at = now
        lease_seconds = self._runs.settings.lease_seconds
        if now - since > max(lease_seconds / 3, _SWEEPS_MISSED * self._runs.settings.sweep_seconds):
            record.extend_leases(now + lease_seconds)
            record.call_at = (
                max(record.call_at, now + lease_seconds) if record.has_coordinator else record.call_at
            )

    def _republish(self, record: RunRecord, now: float) -> int:
        def is_gone(host: str) -> bool:
            return not self._runs.listening(messages.host_queue(host))

        def is_lost(host: str | None, sent_at: float) -> bool:
            if host is not None and is_gone(host):
                return False
            wanted = self._runs.queue(record) if host is None else messages.host_queue(host)
            is_empty = all(self._queue_of_message(message) != wanted for message in list(self._runs.broker))
            return is_empty or sent_at < self._runs.overtaking.get(wanted, 0)

        age = self._runs.settings.republish_seconds
        gone = record.fail_lost_hosts(now, _HOST_PATIENCE * age, is_gone)
        lost = record.republish(now, age, is_lost)
        self._runs.send(record, lost)
        return gone + len(lost)

    def _queue_of_message(self, message: Message) -> str | None:
        record = self._runs.records.get(message.run_id)
        if record is None or not 0 <= message.index < len(record.items):
            return None
        host = split_host(record.items[message.index])[1]
        return self._runs.queue(record) if host is None else messages.host_queue(host)

    def _cancel_abandoned(self, record: RunRecord, now: float) -> int:
        """Cancel a run whose client died, unless another client or a coordinator will continue it."""
        if record.state is RunState.SUBMITTING:
            # The same call with the same key completes it; after a time, none will come.
            redis_retry = self._runs.settings.retention_seconds if record.spec.key else 0
            is_lost = record.submitter_until + redis_retry <= now
        else:
            is_client = record.spec.callback is Callback.CLIENT
            is_lost = is_client and record.needs_acknowledgement and record.coordinator_until <= now
        if is_lost:
            lost = CoordinatorLostError("the client that started this run vanished: start it again")
            record.cancel(now=False, error=ErrorInfo.of(lost))
        return int(is_lost)
