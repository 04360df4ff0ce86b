"""The threads that keep a worker honest: periodic calls, heartbeat, reaper, shutdown."""

import os
import signal
import threading
from typing import Any

import pytest

from stagefleet.attempt import AttemptCounters
from stagefleet.errors import RedisUnreachableError
from stagefleet.runs.models import ItemTransfer, WorkerInfo
from stagefleet.testing import MemoryLedger
from stagefleet.testing.memory_runs import MemoryHeartbeatLedger
from workers.health import STALLED_SECONDS, Heartbeat, count_workers
from workers.process import EXIT_AT_ONCE, PeriodicThread, Reaper, Shutdown

INFO = WorkerInfo(name="worker-7@here-0a1b2c", slots=8, queues=("copy",))


def test_a_periodic_thread_survives_what_its_action_raises():
    called = threading.Semaphore(0)

    def action() -> None:
        called.release()
        raise RuntimeError("a bug")

    thread = PeriodicThread("test", action, seconds=0.001)
    thread.start()
    assert all(called.acquire(timeout=5) for _ in range(3))
    thread.stop()
    assert thread._thread is not None
    assert not thread._thread.is_alive()


def test_a_periodic_thread_tells_of_an_outage_once(caplog):
    answers = iter([RedisUnreachableError("down"), RedisUnreachableError("down"), None])

    def action() -> None:
        answer = next(answers)
        if answer:
            raise answer

    caplog.set_level("INFO", "workers")
    thread = PeriodicThread("test", action, seconds=1)
    for _ in range(3):
        thread.call_once()
    assert ["out_of_reach", "in_reach_again"] == [record.facts["event"] for record in caplog.records]


def test_a_heartbeat_makes_the_worker_visible_until_it_signs_off():
    ledger = MemoryLedger()
    heartbeat = Heartbeat(ledger.heartbeats, INFO, on_stalled=lambda: None)
    heartbeat.beat()
    assert [INFO] == ledger.heartbeats.workers("copy")
    assert (1, 0) == (count_workers(ledger.heartbeats, "here"), count_workers(ledger.heartbeats, "elsewhere"))
    heartbeat.sign_off()
    assert [] == ledger.heartbeats.workers()


def test_a_heartbeat_tells_what_the_worker_moves_then():
    ledger, moving = MemoryLedger(), [ItemTransfer("run", 0, 1, 2)]
    heartbeat = Heartbeat(ledger.heartbeats, INFO, on_stalled=lambda: None, transfers=lambda: tuple(moving))
    for _ in range(2):
        heartbeat.beat()
        assert [tuple(moving)] == [worker.transfers for worker in ledger.heartbeats.workers()]
        moving.clear()


def test_a_loop_that_stands_still_while_redis_answers_is_reported_once():
    now, reports = [0.0], []
    heartbeat = Heartbeat(
        MemoryLedger().heartbeats, INFO, on_stalled=lambda: reports.append(now[0]), clock=lambda: now[0]
    )
    now[0] = STALLED_SECONDS - 1
    heartbeat.beat()
    assert [] == reports
    now[0] = STALLED_SECONDS + 1
    heartbeat.beat()
    heartbeat.beat()
    assert [STALLED_SECONDS + 1] == reports


def test_a_loop_that_stands_still_in_an_outage_is_not_reported(monkeypatch):
    now, reports = [0.0], []
    heartbeat = Heartbeat(
        MemoryLedger().heartbeats, INFO, on_stalled=lambda: reports.append(now[0]), clock=lambda: now[0]
    )

    def unreachable(*_: object, **__: object) -> None:
        raise RedisUnreachableError("down")

    monkeypatch.setattr(MemoryHeartbeatLedger, "beat", unreachable)
    now[0] = STALLED_SECONDS * 3
    with pytest.raises(RedisUnreachableError):
        heartbeat.beat()
    monkeypatch.undo()
    now[0] += STALLED_SECONDS - 1
    heartbeat.beat()
    assert [] == reports


def test_a_heartbeat_brings_counts_once_and_keeps_those_that_it_could_not_bring(monkeypatch):
    brought: list[dict[str, int]] = []

    def beat(_: object, __: object, *, seconds: float, counts: dict[str, int]) -> None:
        brought.append(dict(counts))
        if len(brought) == 1:
            raise RedisUnreachableError("down")

    monkeypatch.setattr(MemoryHeartbeatLedger, "beat", beat)
    counts = AttemptCounters()
    counts.add(2, "lost_leases", "-")
    heartbeat = Heartbeat(MemoryLedger().heartbeats, INFO, on_stalled=lambda: None, counts=counts)
    with pytest.raises(RedisUnreachableError):
        heartbeat.beat()
    counts.add(1, "lost_leases", "-")
    heartbeat.beat()
    heartbeat.sign_off()
    assert [{"lost_leases -": 2}, {"lost_leases -": 3}, {}] == brought


class Elections:
    def __init__(self, leader: str) -> None:
        self.leader, self.sweeps = leader, 0
        self.heartbeats = self
        self.asked: list[tuple[str, str, float]] = []

    def lead(self, role: str, holder: str, *, seconds: float) -> bool:
        self.asked.append((role, holder, seconds))
        return holder == self.leader

    def sweep(self) -> int:
        self.sweeps += 1
        return 0


def test_only_the_elected_worker_sweeps():
    ledger: Any = Elections("a")
    for worker in ("a", "b", "a"):
        Reaper(ledger, worker, sweep_seconds=2).sweep()
    assert 2 == ledger.sweeps
    assert ("reaper", "b", 6) in ledger.asked


class Process:
    """A shutdown whose process cannot end."""

    def __init__(self, drain_seconds: float, parent_pipe: int | None = None) -> None:
        self.happened: list[str] = []
        self.draining = threading.Event()
        self.shutdown = Shutdown(
            drain=self._drain,
            hand_back=lambda: self.happened.append("hand back"),
            drain_seconds=drain_seconds,
            parent_pipe=parent_pipe,
            leave=self._leave,
        )
        self.thread = threading.Thread(target=self._watch)

    def _drain(self) -> None:
        self.happened.append("drain")
        self.draining.set()

    def _leave(self, status: int) -> None:
        self.happened.append(f"leave {status}")
        raise SystemExit

    def _watch(self) -> None:
        with pytest.raises(SystemExit):
            self.shutdown.watch()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown._wake_up.close()
        self.shutdown._signalled.close()

    def signal(self, number: int) -> None:
        self.shutdown._signalled.send(bytes([number]))


def test_a_first_signal_drains_hands_back_and_leaves_in_time():
    with Process(drain_seconds=0.6) as process:
        process.signal(signal.SIGTERM)
        process._watch()
    assert ["drain", "hand back", f"leave {EXIT_AT_ONCE}"] == process.happened


def test_a_second_signal_leaves_at_once():
    with Process(drain_seconds=60) as process:
        process.thread.start()
        process.signal(signal.SIGTERM)
        assert process.draining.wait(5)
        process.signal(signal.SIGINT)
        process.thread.join(5)
    assert ["drain", f"leave {EXIT_AT_ONCE}"] == process.happened


def test_the_death_of_the_supervisor_ends_its_processes():
    parent_pipe, end = os.pipe()
    with Process(drain_seconds=60, parent_pipe=parent_pipe) as process:
        process.signal(signal.SIGCHLD)  # not one to stop for
        os.close(end)
        process._watch()
    os.close(parent_pipe)
    assert [f"leave {EXIT_AT_ONCE}"] == process.happened
