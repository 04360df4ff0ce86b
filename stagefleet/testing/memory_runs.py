"""Runs in memory, as each part of the ledger reads and changes them in one step."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stagefleet.errors import RunNotFoundError
from stagefleet.runs.models import RunState, WorkerInfo
from stagefleet.settings import RunSettings
from stagefleet.testing.run_items import Coordinator
from stagefleet.testing.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the broker: process an item of a run, or coordinate the run if the index is -1."""

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
            self._forget_workers(now)
            self._expire(now)
            yield now
            self._finish_ended_runs(now)
            self.changed.notify_all()

    def _expire(self, now: float) -> None:
        """Remove runs whose retention has passed."""
        while self.finished and self.finished[0].finished_at is not None:
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
        running = [record for record in self.live.values() if record.state is RunState.RUNNING]
        for record in running:
            self.send(record, record.release(self._share(self.queue(record), running), now))
        self._request_coordinators(now)

    def _share(self, queue: str, running: Sequence[RunRecord]) -> int:
        """Return the limit of published, unclaimed items of one run: twice its share of the live slots."""
        slots = sum(worker.slots for worker in self.listening(queue))
        runs = sum(self.queue(record) == queue for record in running)
        return max(1, math.ceil(2 * slots / runs))

    def lease(self, record: RunRecord, now: float) -> None:
        """Let the run's client have its lease from now on."""
        record.submitter_until = record.coordinator_until = now + self.settings.lease_seconds

    def found(self, run_id: str) -> RunRecord:
        """Return a run.

        Raises:
            RunNotFoundError: It does not exist, or has expired.
        """
        record = self.records.get(run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id}, or it has expired")
        return record

    def queue(self, record: RunRecord) -> str:
        """Return the queue of a run."""
        return self.queue_of(record.spec.operation)

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

    def _forget_workers(self, now: float) -> None:
        """Remove workers whose last heartbeat has expired."""
        self.workers = {name: entry for name, entry in self.workers.items() if entry[1] > now}

    def _request_coordinators(self, now: float) -> None:
        """Publish a coordination message for each run with something to deliver and no coordinator."""
        for record in self.records.values():
            if record.coordinator is not Coordinator.ABSENT or record.state is RunState.SUBMITTING:
                continue
            if record.unacknowledged or record.state.is_final:
                self.enqueue_coordinator(record, now)
