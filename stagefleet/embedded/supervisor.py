"""The supervisor of an embedded fleet: starts Valkey and a worker, and stops both when its client is gone.

It is a process in a session of its own, so that neither Ctrl-C nor the death of the client reaches its
children. The client holds the other end of its standard input: when that closes, however the client ended,
the supervisor stops everything and removes the directory. It imports only the standard library and is run by
its path, so that it starts within about 20 ms.

Standard output carries at most two lines: `ready`, and the reason for an unexpected end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SOCKET = "redis.sock"
SERVER_LOG = "server.log"
WORKER_LOG = "worker.log"

_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
_POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_BYTES = 2000
_OF_THE_SERVER = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""The server's environment variables; all others are dropped, since they may hold logins."""


def main(arguments: list[str]) -> None:
    """Run the server and the worker until standard input closes.

    Args:
        arguments: The directory, then the commands of the server and of the worker as JSON lists. The worker
            inherits the supervisor's environment.
    """
    directory = Path(arguments[0])
    server_command, worker_command = (json.loads(argument) for argument in arguments[1:])
    children: list[subprocess.Popen[bytes]] = []
    try:
        needed = {name: os.environ[name] for name in _OF_THE_SERVER if name in os.environ}
        server = _spawn(server_command, directory / SERVER_LOG, needed)
        children.append(server)
        problem = _await_socket(server, directory)
        if problem is None:
            worker = _spawn(worker_command, directory / WORKER_LOG, dict(os.environ))
            children.append(worker)
            _say("ready")
            problem = _keep(server, worker, directory)
        if problem is not None:
            _say(problem)
    finally:
        _stop(children[::-1])
        shutil.rmtree(directory, ignore_errors=True)


def _spawn(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the client's own commands, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - the supervisor has one thread: code between fork and exec is safe
        )


def _die_with_parent() -> Callable[[], None] | None:
    """Return a hook that makes a child die when the supervisor is killed; None outside Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    supervisor = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died in between: no signal will come
            os._exit(1)

    return arrange


def _await_socket(server: subprocess.Popen[bytes], directory: Path) -> str | None:
    """Wait until the server listens; return None, or the reason why it does not."""
    give_up_at = time.monotonic() + _START_SECONDS
    while not (directory / SOCKET).exists():
        if server.poll() is not None:
            return f"the private Valkey ended at its start: {_tail(directory / SERVER_LOG)}"
        if time.monotonic() > give_up_at:
            return f"the private Valkey did not start within {_START_SECONDS:.0f} s"
        time.sleep(_POLL_SECONDS)
    return None


def _keep(server: subprocess.Popen[bytes], worker: subprocess.Popen[bytes], directory: Path) -> str | None:
    """Wait until the client is gone (None), or a child has ended (the reason)."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    while True:
        if server.poll() is not None:
            return f"the private Valkey ended: {_tail(directory / SERVER_LOG)}"
        if worker.poll() is not None:
            return f"the embedded worker ended: {_tail(directory / WORKER_LOG)}"
        readable, _, _ = select.select([sys.stdin, read_end], [], [])
        if sys.stdin in readable:
            return None
        os.read(read_end, 512)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Stop the children and all their processes at once: none may outlive the directory.

    After the second signal, a worker does not finish its items; it ends its own processes, then itself.
    """
    for child in children:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _tail(log: Path) -> str:
    """Return the last line of a log."""
    lines = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the client may be gone
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(sys.argv[1:])
