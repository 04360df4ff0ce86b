"""Supervisor of processes: starts and watches them, stops them in time, and takes them along when it dies.

Run as a program, it is that of an embedded fleet. It is run by its path, without site-packages, and imports
only the standard library, so that it starts within some 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
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
    """A child without a program of its own, with the methods of `Popen` that a supervisor calls."""

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
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, log: Path | None = None
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
        """Start a process that has all modules and descriptors of this one, and dies with it.

        `run` is called in it, and returns its exit status.
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


# The supervisor of an embedded fleet: starts Valkey and a worker, and stops both when its client is gone.
#
# It is a process in a session of its own, so that neither Ctrl-C nor the death of the client reaches its
# children. The client holds the other end of its standard input: when that closes, however the client ended,
# the supervisor stops everything and removes the directory. It does not wait for the worker if `AT_ONCE` is
# the client's last word.
#
# Standard output carries at most two lines: `ready`, and the reason for an unexpected end.

SOCKET = "redis.sock"
AT_ONCE = "at once"
SERVER_LOG = "server.log"
WORKER_LOG = "worker.log"

_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
_POLL_SECONDS = 0.01
_TAIL_BYTES = 2000
_OF_THE_SERVER = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""The server's environment variables; all others are dropped, since they may hold logins."""


def main(arguments: list[str]) -> None:
    """Run the server and the worker until standard input closes.

    The arguments are the directory, and the commands of both as JSON lists. The worker inherits the
    environment.
    """
    directory = Path(arguments[0])
    server_command, worker_command = (json.loads(argument) for argument in arguments[1:])
    supervisor = Supervisor((signal.SIGTERM,))
    children: list[Process] = []
    try:
        needed = {name: os.environ[name] for name in _OF_THE_SERVER if name in os.environ}
        server = supervisor.start(server_command, environment=needed, log=directory / SERVER_LOG)
        children.append(server)
        children.append(supervisor.start(worker_command, log=directory / WORKER_LOG))  # loads meanwhile
        problem = _await_socket(supervisor, server, directory)
        if problem is None:
            _say("ready")
            problem = _await_end(supervisor, children, directory)
        if problem:
            _say(problem)
    finally:
        # None may outlive the directory. After the second signal a worker does not finish its items.
        for child in children[::-1]:
            supervisor.stop([child], signal.SIGTERM, signal.SIGINT, seconds=_STOP_SECONDS)
            supervisor.kill([child])
        shutil.rmtree(directory, ignore_errors=True)


def _await_socket(supervisor: Supervisor, server: Process, directory: Path) -> str | None:
    """Wait until the server listens; return None, or the reason why it does not ("" if it has to stop)."""
    give_up_at = time.monotonic() + _START_SECONDS
    while not (directory / SOCKET).exists():
        if server.poll() is not None:
            return f"the private Valkey ended at its start: {_tail(directory / SERVER_LOG)}"
        if time.monotonic() > give_up_at:
            return f"the private Valkey did not start within {_START_SECONDS:.0f} s"
        if signal.SIGTERM in supervisor.wait(_POLL_SECONDS):
            return ""
    return None


def _await_end(supervisor: Supervisor, children: list[Process], directory: Path) -> str:
    """Wait until the client is gone (""), or a child has ended (the reason)."""
    has_client = True

    def note_end_of_client() -> None:
        nonlocal has_client
        has_client = False
        supervisor.forget(sys.stdin)
        if sys.stdin.read() == AT_ONCE:
            supervisor.kill(children[::-1])

    supervisor.watch(sys.stdin, note_end_of_client)
    logs = {"private Valkey": SERVER_LOG, "embedded worker": WORKER_LOG}
    while has_client:
        for child, (name, log) in zip(children, logs.items(), strict=True):
            if child.poll() is not None:
                return f"the {name} ended: {_tail(directory / log)}"
        if signal.SIGTERM in supervisor.wait(None):
            break
    return ""


def _tail(log: Path) -> str:
    """Return the last line of a log."""
    lines = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the client may be gone
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
