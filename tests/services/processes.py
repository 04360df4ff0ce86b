"""Programs that end with the process that started them."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.services.environment import search_path

START_SECONDS = 30
"""The longest wait for a service to be ready; they take a fraction of a second."""
STOP_SECONDS = 10
_POLL_SECONDS = 0.01
_PORTS = range(18000, 32000)


class ServiceMissingError(RuntimeError):
    """A program that a service needs is not installed; the message says what to install."""


class ServiceRefusedError(ServiceMissingError):
    """This user may not start the service, and no installation helps."""


class ServiceStartError(RuntimeError):
    """A service did not get ready; the message ends with what it logged last."""


def find_program(*names: str, install: str) -> str:
    """The path of the first of these programs that is there.

    Args:
        *names: The programs that would do.
        install: What to install where there is none.

    Raises:
        ServiceMissingError: None is there.
    """
    for name in names:
        path = shutil.which(name, path=search_path())
        if path is not None:
            return path
    raise ServiceMissingError(f"{' or '.join(names)} is missing: {install}")


def free_port() -> int:
    """A loopback port that was free a moment ago: whoever takes it must be ready to try another.

    Below those that Linux gives to outgoing connections (32768 and up): a server that is stopped for a while
    finds its port free again.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceStartError("no port is free on 127.0.0.1")


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
    """Wait for what no event tells.

    Raises:
        TimeoutError: It did not come true in time; the message says `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain: {what}")
        time.sleep(_POLL_SECONDS)


class Program:
    """A program under way, in a session of its own, its output in files.

    On Linux the kernel kills it when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG): start
    programs from the main thread. `setpriv` sets that up, since nothing of Python may run between fork and
    exec in a process with threads.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        name: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.stdout = folder / f"{name}.out"
        self.stderr = folder / f"{name}.err"
        setpriv = shutil.which("setpriv")
        tether = [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            self.output_start, self.errors_start = out.tell(), err.tell()
            self._process = subprocess.Popen(
                [*tether, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs (stopped by SIGSTOP counts)."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.poll()

    def logged(self) -> str:
        """What it wrote on stderr since its start."""
        with self.stderr.open("rb") as file:
            file.seek(self.errors_start)
            return file.read().decode(errors="replace")

    def printed(self) -> str:
        """What it wrote on stdout since its start."""
        with self.stdout.open("rb") as file:
            file.seek(self.output_start)
            return file.read().decode(errors="replace")

    def wait_for(self, pattern: str, *, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until what it wrote matches.

        Raises:
            ServiceStartError: It ended before that, or took too long.
        """
        deadline = time.monotonic() + seconds
        while True:
            alive = self.alive  # asked before reading: what it wrote last must be seen
            text = self.printed() + self.logged()
            if match := re.search(pattern, text):
                return match
            if not alive or time.monotonic() > deadline:
                state = "did not get ready" if alive else f"ended with {self.returncode}"
                raise ServiceStartError(f"{self._process.args!r} {state}:\n{text[-2000:].strip()}")
            time.sleep(_POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Freeze it (SIGSTOP), and return when none of its threads runs any more."""
        self._process.send_signal(signal.SIGSTOP)
        # The kernel tells the parent once all threads have stopped (wait(2), WSTOPPED).
        options = os.WSTOPPED | os.WNOHANG
        wait_until(lambda: os.waitid(os.P_PID, self.pid, options) is not None, "the program freezes")

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it and everything in its session at once."""
        # The group outlives its leader: signalled also when the leader has been reaped already, but then
        # only if somebody is left in it, so that the number cannot have been given to a stranger.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)

    def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end (SIGTERM), end it after `seconds`; nothing when it has ended."""
        if self.alive:
            self._process.terminate()
            self.thaw()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()
