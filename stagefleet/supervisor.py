"""Supervisor of processes: starts and watches them, stops them in time, and takes them along when it dies.

It imports only the standard library: that of an embedded fleet has to start within some 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Process = subprocess.Popen[bytes]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Supervisor:
    """Processes of this one, each in a session of its own: Ctrl-C is for the supervisor alone.

    Create it in the main thread, and before other threads: it installs signal handlers, and runs code between
    fork and exec. `wait` returns the named signals, besides the ends of processes.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self._wake_up, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)  # noqa: FBT003 - the socket module's signature
        for number in (*signals, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up descriptor tells which came
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_up, selectors.EVENT_READ)

    def close(self) -> None:
        """Close the descriptors; end the processes before."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake_up.close()
        self._signalled.close()

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> Process:
        """Start a process, which dies with this one and inherits the descriptors.

        Its environment and its output are this process's own by default; a log file is added to.
        """
        with contextlib.nullcontext() if log is None else log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own commands, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=descriptors,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one thread: code between fork and exec is safe
            )

    def watch(self, file: Any, call: Callable[[], None]) -> None:
        """Let `wait` call a function when a file can be read."""
        self._selector.register(file, selectors.EVENT_READ, data=call)

    def forget(self, file: Any) -> None:
        """Watch a file no more."""
        self._selector.unregister(file)

    def wait(self, seconds: float | None) -> bytes:
        """Wait for a signal, the end of a process or a watched file; return the numbers of the signals."""
        signals = b""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._wake_up:
                signals += self._wake_up.recv(64)
            else:
                key.data()
        return signals

    def stop(
        self, processes: Sequence[Process], *signals: int, seconds: float, at_once: Collection[int] = ()
    ) -> bool:
        """Send signals to processes in their order, and wait for their ends; False if some go on.

        Signals of `at_once` to this process end the wait.
        """
        for process in processes:
            for number in signals:
                process.send_signal(number)
        limit, is_cut_short = time.monotonic() + seconds, False
        while any(process.poll() is None for process in processes):
            left = limit - time.monotonic()
            if left <= 0 or is_cut_short:
                return False
            is_cut_short = not set(at_once).isdisjoint(self.wait(left))
        return True

    @staticmethod
    def kill(processes: Iterable[Process]) -> None:
        """Kill processes with all of their sessions."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """Return a hook that makes a child die when this process is killed; None outside Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between: no signal will come
            os._exit(1)

    return arrange
