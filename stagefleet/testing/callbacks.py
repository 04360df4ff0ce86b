"""Parts of the ledger in memory for callbacks of detached runs, and for live workers."""

from __future__ import annotations

from stagefleet.runs.models import CoordinatorClaim, WorkerInfo
from stagefleet.runs.waits import WaitReason
from stagefleet.testing.memory_runs import MemoryRuns
from stagefleet.testing.run_items import Coordinator, next_number
from stagefleet.testing.run_record import RunRecord


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
            record = self._claimed_by(claim)
            if record is None:
                return False
            record.call_at = record.coordinator_until = now + self._runs.settings.lease_seconds
            return True

    def release(self, claim: CoordinatorClaim) -> bool:
        with self._runs.step() as now:
            record = self._claimed_by(claim)
            if record is None:
                return False
            record.coordinator = Coordinator.ABSENT
            if len(record.stream) > record.stream.acknowledged or record.state.is_final:
                self._runs.enqueue_coordinator(record, now)
            return True

    def pause(self, claim: CoordinatorClaim, seconds: float, reason: WaitReason | None = None) -> bool:
        with self._runs.step() as now:
            record = self._claimed_by(claim)
            if record is None:
                return False
            record.coordinator, record.call_at = Coordinator.PAUSED, now + seconds
            record.callback_reason = WaitReason() if reason is None else reason.bounded()
            record.failures += 1
            record.failing_since = now if record.failing_since is None else record.failing_since
            return True

    def finish(self, claim: CoordinatorClaim) -> bool:
        with self._runs.step():
            record = self._claimed_by(claim)
            if record is None:
                return False
            record.coordinator = None
            return True

    def _claimed_by(self, claim: CoordinatorClaim) -> RunRecord | None:
        record = self._runs.records.get(claim.run_id)
        if record is None or record.epoch != claim.epoch or record.coordinator is not Coordinator.PRESENT:
            return None
        return record


class MemoryHeartbeatLedger:
    """`HeartbeatLedger` for `MemoryLedger`."""

    def __init__(self, runs: MemoryRuns) -> None:
        self._runs = runs

    def beat(self, worker: WorkerInfo, *, seconds: float) -> None:
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
