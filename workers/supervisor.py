"""Supervisor: keeps a number of worker processes running, and stops them in time.

It holds no connection and does no work, so that a failure of a worker does not end it. Its processes are
forked from it: it loads what they need once for all of them, and starts no thread.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.logging import configure_logging
from stagefleet.backoff import Backoff
from stagefleet.errors import SettingsError, StagefleetError, UnreachableError
from stagefleet.logs import EventLogger
from stagefleet.process_supervisor import Process, Supervisor
from stagefleet.redaction import masked_url
from stagefleet.redis_facts import check_redis
from stagefleet.runs.messages import QUEUES, own_queues, queue_of
from stagefleet.settings import EngineSettings, Settings, load_settings
from stagefleet.streams import prepare_streams

_FETCH = queue_of("fetch_stage")


def choose_queues(
    asked: Sequence[str] | None, engine: EngineSettings, layout_roots: Sequence[Path] = ()
) -> list[str]:
    """Return the queues of a worker: those requested, or all; `fetch` and `layout_roots` add its host's own.

    Only a worker with a Docker Engine can fetch: without one it would fail items that others could process.
    """
    known = sorted(set(QUEUES.values()))
    has_engine = engine.has_engine
    if asked is None:
        asked = [name for name in known if has_engine or name != _FETCH]
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        named = ", ".join(unknown) or "none named"
        raise SettingsError(f"--queues: no such queue ({named}); there are {', '.join(known)}")
    if _FETCH in asked and engine.address is None:
        raise SettingsError(
            f"--queues {_FETCH}: this host has no Docker Engine; name one with STAGEFLEET_ENGINE__URL"
        )
    own = own_queues(engine.host_name, fetches=_FETCH in asked, layout_roots=layout_roots)
    return list(dict.fromkeys([*asked, *own]))


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FATAL_STATUS = 2
"""Status of wrong use or configuration: a restart would not help."""
_HEALTHY_SECONDS = 30.0
"""Age from which an ended process is restarted at once."""
_BACKOFF = Backoff(0.5, 30.0)
_OVERTIME_SECONDS = 3.0
"""Time beyond a process's own stop limit after which it is killed."""

_log = EventLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker until it is stopped; the exit status is that of `stagefleet worker`."""
    known = ", ".join(sorted(set(QUEUES.values())))
    prepare_streams()
    parser = argparse.ArgumentParser(prog="stagefleet worker")
    parser.add_argument("--processes", type=int, help="worker processes; one a CPU by default")
    parser.add_argument("--concurrency", type=int, help="items at once in each process")
    parser.add_argument("--queues", help=f"queues to listen to, with commas between; {known} by default")
    options = parser.parse_args(arguments)
    try:
        settings = _with_options(load_settings(), options.processes, options.concurrency)
        queues = choose_queues(_names(options.queues), settings.engine, settings.worker.layout_roots)
        if settings.redis_url is None:
            raise SettingsError(
                "workers need a Redis: set STAGEFLEET_REDIS_URL, or redis_url in stagefleet.toml"
            )
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)
    configure_logging(settings.log)
    _check_redis(settings.redis_url, settings.key_prefix)
    from workers.process import run_process  # noqa: PLC0415 - brings Celery, for which no mistake has to wait

    count = settings.worker.processes or os.cpu_count() or 1
    supervisor = WorkerSupervisor(
        partial(run_process, queues, settings.worker.concurrency),
        processes=count,
        drain_seconds=settings.worker.drain_seconds,
        ready_line={
            "processes": count,
            "concurrency": settings.worker.concurrency,
            "queues": queues,
            "redis": masked_url(settings.redis_url),
        },
    )
    sys.exit(supervisor.run())


def _check_redis(redis_url: str, prefix: str) -> None:
    """Exit with one line if the processes could never work; they wait for an unreachable Redis themselves."""
    try:
        check_redis(redis_url, prefix, rights=True)
    except UnreachableError as error:
        _log.warning("out_of_reach", action="start", error=str(error))
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        sys.exit(error.exit_code)


def _with_options(settings: Settings, processes: int | None, concurrency: int | None) -> Settings:
    given = {"processes": processes, "concurrency": concurrency}
    changes = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        if value < 1:
            raise SettingsError(f"--{name} {value}: a worker has at least 1")
    return settings.model_copy(update={"worker": settings.worker.model_copy(update=changes)})


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


@dataclass(slots=True)
class Child:
    """A slot for a worker process, and its current process, None between two of them.

    Attributes:
        ready: The end of the pipe on which it reports that it listens, None afterwards.
        started_at: Time of its start, on the monotonic clock; the next start is at `start_at`.
        failures: Successive early ends.
    """

    number: int
    process: Process | None = None
    ready: int | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0

    def note_end(self, now: float) -> float:
        """Record that the process ended; return the seconds to wait before the next one."""
        self.failures = 0 if now - self.started_at > _HEALTHY_SECONDS else self.failures + 1
        self.process = None
        pause = _BACKOFF.pause_seconds(self.failures) if self.failures else 0.0
        self.start_at = now + pause
        return pause


class WorkerSupervisor(Supervisor):
    """Keep worker processes running; create it in the main thread. It logs a line once all listen.

    Args:
        run: Runs in each process; takes the descriptor on which it reports that it listens, and one whose
            other end only the supervisor holds. Returns the exit status.
    """

    def __init__(
        self,
        run: Callable[[int, int], int],
        *,
        processes: int,
        drain_seconds: float,
        ready_line: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(_STOP_SIGNALS)
        self._run = run
        self._drain_seconds = drain_seconds
        self._ready_line = ready_line or {}
        self._children = [Child(number) for number in range(1, processes + 1)]
        self._waiting_for = processes
        self._parent_pipe, self._life_line_end = os.pipe()

    def run(self) -> int:
        """Keep the processes running until a signal arrives, or none can run; return the exit status."""
        try:
            status = self._keep()
            self._drain()
        finally:
            self.kill(self._running())
            os.close(self._life_line_end)
            os.close(self._parent_pipe)
            self.close()
        return status

    def _running(self) -> list[Process]:
        return [child.process for child in self._children if child.process is not None]

    def _keep(self) -> int:
        """Start and restart the processes until they have to stop; return the exit status."""
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.process is None and child.start_at <= now:
                    self._start(child)
            due = [child.start_at for child in self._children if child.process is None]
            signals = self.wait(max(0.0, min(due) - time.monotonic()) + 0.01 if due else None)
            if _FATAL_STATUS in map(self._reap, self._children):
                return _FATAL_STATUS
            if not set(_STOP_SIGNALS).isdisjoint(signals):
                return 0

    def _start(self, child: Child) -> None:
        ready, ready_end = os.pipe()
        child.process = self.fork(partial(self._run_in_child, ready_end, ready))
        os.close(ready_end)
        child.started_at = time.monotonic()
        child.ready = ready
        self.watch(ready, partial(self._hear, child))

    def _run_in_child(self, ready_end: int, *inherited: int) -> int:
        """Run a worker process, without the descriptors that are the supervisor's alone."""
        others = [child.ready for child in self._children if child.ready is not None]
        for descriptor in (self._life_line_end, *inherited, *others):
            os.close(descriptor)
        return self._run(ready_end, self._parent_pipe)

    def _hear(self, child: Child) -> None:
        """Handle a process's report that it listens, or the end of its pipe."""
        assert child.ready is not None
        is_ready = bool(os.read(child.ready, 1))
        self._forget_pipe(child)
        if is_ready and self._waiting_for:
            self._waiting_for -= 1
            if not self._waiting_for:
                _log.info("ready", action="start", **self._ready_line)

    def _forget_pipe(self, child: Child) -> None:
        if child.ready is not None:
            self.forget(child.ready)
            os.close(child.ready)
            child.ready = None

    def _reap(self, child: Child) -> int | None:
        """Note the end of a process, and when the next one starts; return its status, None while it runs."""
        status = None if child.process is None else child.process.poll()
        if status is None or child.process is None:
            return None
        facts = {"action": "reap", "process": child.number, "pid": child.process.pid, "status": status}
        self._forget_pipe(child)
        pause = child.note_end(time.monotonic())
        if status != _FATAL_STATUS:
            _log.warning("process_died", **facts, restart_in_seconds=round(pause, 1))
        return status

    def _drain(self) -> None:
        """Let the processes finish in time; the fleet's sweep returns the items of those that do not."""
        _log.info("stopping", action="stop", drain_seconds=self._drain_seconds)
        seconds = self._drain_seconds + _OVERTIME_SECONDS
        limit = time.monotonic() + seconds
        if not self.stop(self._running(), signal.SIGTERM, seconds=seconds, at_once=_STOP_SIGNALS):
            is_late = time.monotonic() >= limit
            _log.warning("processes_do_not_stop" if is_late else "stopping_at_once", action="stop")
