"""Callbacks for detached runs, of the ledger in memory."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stagefleet.runs.model import RunState, Visit
from stagefleet.runs.waits import WaitReason
from stagefleet.settings import RunSettings
from stagefleet.testing.coordinators import Coordinator
from stagefleet.testing.record import RunRecord
from stagefleet.testing.stream import next_number

__all__ = ["MemorySwitchboard", "Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the broker: process an item of a run, or coordinate the run if the index is -1."""

    run: str
    index: int


class MemorySwitchboard:
    """The part of `MemoryLedger` that implements `Switchboard`."""

    broker: deque[Message]
    _settings: RunSettings
    _records: dict[str, RunRecord]
    _keys: dict[str, str]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def attend(self, run: str) -> Visit | None:
        with self._step() as now:
            record = self._records.get(run)
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
            return Visit(run, record.epoch, record.failures, failing_seconds, self._settings.lease_seconds)

    def renew_visit(self, visit: Visit) -> bool:
        with self._step() as now:
            record = self._visited(visit)
            if record is None:
                return False
            record.call_at = record.coordinator_until = now + self._settings.lease_seconds
            return True

    def leave(self, visit: Visit) -> bool:
        with self._step() as now:
            record = self._visited(visit)
            if record is None:
                return False
            record.coordinator = Coordinator.ABSENT
            if len(record.stream) > record.stream.acknowledged or record.state.is_final:
                self._summon(record, now)
            return True

    def pause(self, visit: Visit, seconds: float, reason: WaitReason | None = None) -> bool:
        with self._step() as now:
            record = self._visited(visit)
            if record is None:
                return False
            record.coordinator, record.call_at = Coordinator.PAUSED, now + seconds
            record.callback_reason = WaitReason() if reason is None else reason.bounded()
            record.failures += 1
            record.failing_since = now if record.failing_since is None else record.failing_since
            return True

    def conclude(self, visit: Visit) -> bool:
        with self._step():
            record = self._visited(visit)
            if record is None:
                return False
            record.coordinator = None
            return True

    def run_under(self, key: str) -> str | None:
        with self._step():
            return self._keys.get(key)

    def _visited(self, visit: Visit) -> RunRecord | None:
        record = self._records.get(visit.run)
        if record is None or record.epoch != visit.epoch or record.coordinator is not Coordinator.PRESENT:
            return None
        return record

    def _call_coordinators(self, now: float) -> None:
        """Publish a coordination message for each run with something to deliver and no coordinator."""
        for record in self._records.values():
            if record.coordinator is not Coordinator.ABSENT or record.state is RunState.SUBMITTING:
                continue
            if record.unacknowledged or record.state.is_final:
                self._summon(record, now)

    def _recall(self, now: float) -> int:
        """Publish again for coordinators that never started, that died, or whose pause is over."""
        due = [
            record
            for record in self._records.values()
            if record.coordinator not in {None, Coordinator.ABSENT} and record.call_at <= now
        ]
        for record in due:
            self._summon(record, now)
        return len(due)

    def _summon(self, record: RunRecord, now: float) -> None:
        record.coordinator = Coordinator.CALLED
        record.call_at = now + self._settings.lease_seconds
        self.broker.append(Message(record.id, -1))
