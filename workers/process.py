"""One worker process: Celery's worker on a thread pool, with threads for leases, heartbeats and signals."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from celery.app.trace import setup_worker_optimizations
from celery.worker import state

from config.logging import configure_logging
from stagefleet.backoff import jittered
from stagefleet.errors import RedisConfigurationError, StagefleetError, UnreachableError
from stagefleet.logs import EventLogger
from stagefleet.processes import HeartbeatFile
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.messages import queue_of
from stagefleet.runs.models import WorkerInfo
from stagefleet.settings import Settings, load_settings
from workers.consumer import FLUSH_SECONDS, BatchedEventsConsumer
from workers.context import ITEM_FUNCTIONS, ItemFunction, WorkerContext, build_context
from workers.health import BEAT_SECONDS, Heartbeat, make_name

READY = b"r"
"""Byte that a process sends its supervisor once it listens."""
_LOOP_CHECK_SECONDS = 5.0

_log = EventLogger(__name__)


def run_process(queues: Sequence[str], concurrency: int, ready_fd: int, parent_pipe: int) -> int:
    """Run one worker process of a supervisor; return the exit status, or an error's code if it cannot start.

    The arguments are as of `serve`.
    """
    try:
        return serve(
            load_settings(),
            queues=queues,
            concurrency=concurrency,
            ready_fd=ready_fd,
            parent_pipe=parent_pipe,
        )
    except StagefleetError as error:
        sys.stderr.write(f"stagefleet: error: {error}\n")
        return error.exit_code


def serve(
    settings: Settings,
    *,
    queues: Sequence[str] | None = None,
    concurrency: int | None = None,
    operations: Mapping[str, ItemFunction] = ITEM_FUNCTIONS,
    ready_fd: int | None = None,
    parent_pipe: int | None = None,
) -> int:
    """Work until this process is stopped, and return the exit status; call it in the main thread.

    Args:
        queues: The queues to listen to; all by default.
        concurrency: Items at once; the settings' by default.
        operations: This worker's operations by name; a custom worker may have others.
        ready_fd: File descriptor that gets a byte once this process listens.
        parent_pipe: See `Shutdown`.
    """
    name = make_name(settings.worker)
    configure_logging(settings.log, worker=name)
    info = WorkerInfo(
        name=name,
        slots=concurrency or settings.worker.concurrency,
        queues=tuple(queues or sorted({queue_of(operation) for operation in (*operations, "coordinate")})),
    )
    context = build_context(settings, name, operations)
    try:
        return _Process(context, info, settings).run(ready_fd, parent_pipe)
    finally:
        context.close()


class _Process:
    """Threads of a worker process, and the order of their start and stop."""

    def __init__(self, context: WorkerContext, info: WorkerInfo, settings: Settings) -> None:
        self._context = context
        self._info = info
        self._drain_seconds = settings.worker.drain_seconds
        self._heartbeat = Heartbeat(
            context.ledger.heartbeats,
            info,
            on_stalled=lambda: os.kill(os.getpid(), STOP_SIGNALS[0]),
            file=HeartbeatFile(settings.worker.name, settings.redis_url or "", settings.key_prefix),
            counts=context.renewer.counts,
            transfers=context.renewer.transfers,
        )
        reaper = Reaper(context.ledger, info.name, sweep_seconds=settings.runs.sweep_seconds)
        self._beating = PeriodicThread("heartbeat", self._heartbeat.beat, seconds=BEAT_SECONDS)
        self._reaping = PeriodicThread("reaper", reaper.sweep, seconds=settings.runs.sweep_seconds)
        self._ready_fd: int | None = None

    def run(self, ready_fd: int | None, parent_pipe: int | None) -> int:
        """Work until a signal arrives, then stop in order: consumer and pool, heartbeat and reaper."""
        self._ready_fd = ready_fd
        Shutdown(
            drain=_stop_consuming,
            hand_back=self._context.renewer.stop_all,
            drain_seconds=self._drain_seconds,
            parent_pipe=parent_pipe,
        ).install()
        controller = self._make_controller()
        controller.start()
        self._reaping.stop()
        self._beating.stop()
        try:
            self._heartbeat.sign_off()
        except StagefleetError as error:
            _log.warning("not_signed_off", action="stop", error=str(error))
        _log.info("stopped", action="stop")
        return int(controller.exitcode or 0)

    def _make_controller(self) -> Any:
        app, info = self._context.app, self._info
        setup_worker_optimizations(app, info.name)
        return app.WorkController(
            hostname=info.name,
            pool_cls="threads",
            concurrency=info.slots,
            queues=list(info.queues),
            consumer_cls=BatchedEventsConsumer,
            ready_callback=self._begin,
            without_gossip=True,  # not needed: each worker would receive all events of all others
            without_mingle=True,  # the ledger cancels runs
        )

    def _begin(self, consumer: Any) -> None:
        """Start the heartbeat once the consumer listens."""
        consumer.hub.call_repeatedly(_LOOP_CHECK_SECONDS, self._heartbeat.note_loop_alive)
        consumer.hub.call_repeatedly(FLUSH_SECONDS, consumer.flush_events)
        self._heartbeat.note_loop_alive()
        self._beating.start()
        self._reaping.start()
        version = self._info.version
        _log.info(
            "listening",
            action="start",
            slots=self._info.slots,
            queues=self._info.queues,
            release=version.release,
            schema=version.schema,
        )
        if self._ready_fd is not None:
            os.write(self._ready_fd, READY)
            os.close(self._ready_fd)


def _stop_consuming() -> None:
    """Set the flag that Celery's own signal handlers set; its loop reads it at least once per second."""
    if state.should_stop is None:  # else the status is set already
        state.should_stop = 0


# Stop of a worker process: the first signal drains it, the second or its supervisor's death ends it.

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_AT_ONCE = 75
"""Exit status of a process that did not wait for its items (EX_TEMPFAIL)."""
_LEAST_GRACE_SECONDS = 0.5


class Shutdown:
    """Stop this process within a bounded time.

    Python runs a signal's handler between two steps of the main thread, which may hold any lock. So the
    handlers do nothing, and a thread reads the signals from the wake-up descriptor.

    Args:
        drain: Called at the first signal: start no new work.
        hand_back: Called shortly before `drain_seconds` are over: hand back items under way.
        drain_seconds: Time from the first signal to the end of the process, whatever hangs.
        parent_pipe: A descriptor whose other end only the supervisor holds; its end signals the supervisor's
        death.
    """

    def __init__(
        self,
        *,
        drain: Callable[[], None],
        hand_back: Callable[[], None],
        drain_seconds: float,
        parent_pipe: int | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._drain = drain
        self._hand_back = hand_back
        self._drain_seconds = drain_seconds
        self._parent_pipe = parent_pipe
        self._leave = leave
        self._wake_up, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)  # noqa: FBT003 - the socket module's signature

    def install(self) -> None:
        """Install the signal handlers; call it in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self.watch, name="shutdown", daemon=True).start()

    def watch(self) -> None:
        """Wait for signals, and act on them."""
        self._wait(None)
        _log.info("draining", action="stop", seconds=self._drain_seconds)
        deadline = time.monotonic() + self._drain_seconds
        self._drain()
        # The time for handing back is a quarter, so that a lease check between chunks is reached.
        grace_seconds = max(_LEAST_GRACE_SECONDS, self._drain_seconds / 4)
        if not self._wait(self._drain_seconds - grace_seconds):
            _log.warning("handing_back", action="stop")
            self._hand_back()
            self._wait(max(0.0, deadline - time.monotonic()))
        _log.warning("leaving_at_once", action="stop")
        self._leave(EXIT_AT_ONCE)

    def _wait(self, seconds: float | None) -> bool:
        """Return True if a signal came within some seconds."""
        watched = [source for source in (self._wake_up, self._parent_pipe) if source is not None]
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            readable, _, _ = select.select(watched, [], [], left)
            if self._parent_pipe in readable:
                self._leave(EXIT_AT_ONCE)
            if self._wake_up in readable and self._wake_up.recv(1)[0] in STOP_SIGNALS:
                return True
            if until is not None and time.monotonic() >= until:
                return False


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing but wake up the watching thread; see `Shutdown`."""


# Repair of all runs of the fleet, by an elected worker.

ROLE = "reaper"
_MISSED_SWEEPS = 3
"""Number of missed sweeps after which another worker takes over."""


class Reaper:
    """Sweep the ledger while this worker is elected."""

    def __init__(self, ledger: Ledger, worker: str, *, sweep_seconds: float) -> None:
        self._ledger = ledger
        self._worker = worker
        self._lease_seconds = sweep_seconds * _MISSED_SWEEPS

    def sweep(self) -> None:
        """Sweep, if this worker is or becomes the elected one."""
        if self._ledger.heartbeats.lead(ROLE, self._worker, seconds=self._lease_seconds):
            mended = self._ledger.sweep()
            if mended:
                _log.info("swept", action="sweep", mended=mended)


# Thread that calls a function periodically, and survives its errors.

_JOIN_SECONDS = 10.0


class PeriodicThread:
    """Call an action at once, and then periodically; log its errors, of an outage the first and the end.

    The pause between two calls is up to a tenth shorter, so that processes do not run in step.
    """

    def __init__(self, name: str, action: Callable[[], object], *, seconds: float) -> None:
        self._name = name
        self._action = action
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._in_outage = False

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for a call under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        self.call_once()
        while not self._stopped.wait(jittered(self._seconds, share=0.9)):
            self.call_once()

    def call_once(self) -> None:
        """Call the action once."""
        try:
            self._action()
        except (UnreachableError, RedisConfigurationError) as error:
            if not self._in_outage:
                _log.warning("out_of_reach", action=self._name, error=str(error))
            self._in_outage = True
        except Exception as error:  # noqa: BLE001 - the next call may succeed, and only this thread calls
            _log.error("unexpected_error", action=self._name, exc_info=error)
        else:
            if self._in_outage:
                _log.info("in_reach_again", action=self._name)
            self._in_outage = False
