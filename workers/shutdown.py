"""Stop of a worker process: the first signal drains it, the second or its supervisor's death ends it."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from stagefleet.logs import EventLogger

__all__ = ["STOP_SIGNALS", "Shutdown"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_AT_ONCE = 75
"""Exit status of a process that did not wait for its items (EX_TEMPFAIL)."""
_LEAST_GRACE_SECONDS = 0.5

_log = EventLogger(__name__)


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
        leave: Ends the process at once.
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
        if not self._wait(self._drain_seconds - self._grace_seconds):
            _log.warning("handing_back", action="stop")
            self._hand_back()
            self._wait(max(0.0, deadline - time.monotonic()))
        _log.warning("leaving_at_once", action="stop")
        self._leave(EXIT_AT_ONCE)

    @property
    def _grace_seconds(self) -> float:
        """Return the time for handing back: a quarter, so that a lease check between chunks is reached."""
        return max(_LEAST_GRACE_SECONDS, self._drain_seconds / 4)

    def _wait(self, seconds: float | None) -> bool:
        """Return True if a signal came within some seconds."""
        watched: list[Any] = (
            [self._wake_up] if self._parent_pipe is None else [self._wake_up, self._parent_pipe]
        )
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            readable, _, _ = select.select(watched, [], [], left)
            if self._parent_pipe in readable:
                self._leave(EXIT_AT_ONCE)
            if self._wake_up in readable and self._is_stop(self._wake_up.recv(1)):
                return True
            if until is not None and time.monotonic() >= until:
                return False

    @staticmethod
    def _is_stop(number: bytes) -> bool:
        return number[0] in STOP_SIGNALS


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing but wake up the watching thread; see `Shutdown`."""
