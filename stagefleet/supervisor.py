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
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class ChildProcess:
    """A process without a program of its own, with the methods of `subprocess.Popen` that a supervisor calls.

    Args:
        pid: Its number; it is a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status; minus the signal's number if one ended it, None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for the end, and return the exit status as `poll` does."""
        return self._wait(0)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status


Process = subprocess.Popen[bytes] | ChildProcess

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Supervisor:
    """Processes of this one, each in a session of its own: Ctrl-C is for the supervisor alone.

    Create it in the main thread, and before other threads: it installs signal handlers, and runs code between
    fork and exec. `wait` returns the named signals, besides the ends of processes.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self._wake_up, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)  # noqa: FBT003 - the socket module's signature
        self._handlers = {
            number: signal.signal(number, lambda *_: None)  # the wake-up descriptor tells which came
            for number in (*signals, signal.SIGCHLD)
        }
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
    ) -> Process:
        """Start a process, which dies with this one.

        Its environment and its output are this process's own by default; a log file is added to.
        """
        with contextlib.nullcontext() if log is None else log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own commands, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one thread: code between fork and exec is safe
            )

    def fork(self, run: Callable[[], int]) -> Process:
        """Start a process that has all modules of this one, and dies with it.

        Args:
            run: What it does; returns its exit status. All descriptors of this process are open in it.
        """
        arrange = _die_with_parent()
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)  # none is for the other process
        pid = os.fork()
        if not pid:
            self._become(arrange, before, run)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return ChildProcess(pid)

    def _become(
        self, arrange: Callable[[], None] | None, mask: Iterable[int], run: Callable[[], int]
    ) -> NoReturn:
        """Run a function in a forked process, in a session of its own, and end this process."""
        status = 1
        try:
            os.setsid()
            if arrange is not None:
                arrange()
            self.close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = run()
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else status
        except BaseException:  # noqa: BLE001 - the frames above belong to the supervisor
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):  # a closed pipe
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

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
