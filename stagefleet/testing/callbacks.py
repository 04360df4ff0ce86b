"""Callbacks for detached runs, of the ledger in memory."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stagefleet.runs.models import CoordinatorClaim, RunState
from stagefleet.runs.waits import WaitReason
from stagefleet.settings import RunSettings
from stagefleet.testing.run_items import Coordinator, next_number
from stagefleet.testing.run_record import RunRecord

__all__ = ["MemoryCallbackLedger", "Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the broker: process an item of a run, or coordinate the run if the index is -1."""

    run_id: str
    index: int


class MemoryCallbackLedger:
    """The part of `MemoryLedger` that implements `CallbackLedger`."""

    broker: deque[Message]
    _settings: RunSettings
    _records: dict[str, RunRecord]
    _keys: dict[str, str]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def claim_coordination(self, run_id: str) -> CoordinatorClaim | None:
        with self._step() as now:
            record = self._records.get(run_id)
            if record is None or record.coordinator in {None, Coordinator.ABSENT}:
                return None
            if record.coordinator is Coordinator.PRESENT and record.coordinator_until > now:
                return None
            if record.coordinator is Coordinator.PAUSED and record.call_at > now:
                return None
            record.coordinator = Coordinator.PRESENT
            record.call_at = record.coordinator_until = now + self._settings.lease_seconds
            record.epoch = next_number()
            failing_seconds = 0.0 if record.failing_since is None else now - record.failing_since
            return CoordinatorClaim(
                run_id, record.epoch, record.failures, failing_seconds, self._settings.lease_seconds
            )

    def renew_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        with self._step() as now:
            record = self._claimed_by(coordinator_claim)
            if record is None:
                return False
            record.call_at = record.coordinator_until = now + self._settings.lease_seconds
            return True

    def release_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        with self._step() as now:
            record = self._claimed_by(coordinator_claim)
            if record is None:
                return False
            record.coordinator = Coordinator.ABSENT
            if len(record.stream) > record.stream.acknowledged or record.state.is_final:
                self._enqueue_coordinator(record, now)
            return True

    def pause_coordination(
        self, coordinator_claim: CoordinatorClaim, seconds: float, reason: WaitReason | None = None
    ) -> bool:
        with self._step() as now:
            record = self._claimed_by(coordinator_claim)
            if record is None:
                return False
            record.coordinator, record.call_at = Coordinator.PAUSED, now + seconds
            record.callback_reason = WaitReason() if reason is None else reason.bounded()
            record.failures += 1
            record.failing_since = now if record.failing_since is None else record.failing_since
            return True

    def finish_coordination(self, coordinator_claim: CoordinatorClaim) -> bool:
        with self._step():
            record = self._claimed_by(coordinator_claim)
            if record is None:
                return False
            record.coordinator = None
            return True

    def run_under(self, key: str) -> str | None:
        with self._step():
            return self._keys.get(key)

    def _claimed_by(self, coordinator_claim: CoordinatorClaim) -> RunRecord | None:
        record = self._records.get(coordinator_claim.run_id)
        if (
            record is None
            or record.epoch != coordinator_claim.epoch
            or record.coordinator is not Coordinator.PRESENT
        ):
            return None
        return record

    def _request_coordinators(self, now: float) -> None:
        """Publish a coordination message for each run with something to deliver and no coordinator."""
        for record in self._records.values():
            if record.coordinator is not Coordinator.ABSENT or record.state is RunState.SUBMITTING:
                continue
            if record.unacknowledged or record.state.is_final:
                self._enqueue_coordinator(record, now)

    def _enqueue_lost_coordinators(self, now: float) -> int:
        """Publish again for coordinators that never started, that died, or whose pause is over."""
        due = [
            record
            for record in self._records.values()
            if record.coordinator not in {None, Coordinator.ABSENT} and record.call_at <= now
        ]
        for record in due:
            self._enqueue_coordinator(record, now)
        return len(due)

    def _enqueue_coordinator(self, record: RunRecord, now: float) -> None:
        record.coordinator = Coordinator.CALLED
        record.call_at = now + self._settings.lease_seconds
        self.broker.append(Message(record.id, -1))
