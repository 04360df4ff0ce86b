"""Live workers, of the ledger in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager

from stagefleet.runs.models import WorkerInfo

__all__ = ["MemoryHeartbeatLedger"]


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
