"""The supervisor of an embedded fleet: starts Valkey and a worker, and stops both when its client is gone.

It is a process in a session of its own, so that neither Ctrl-C nor the death of the client reaches its
children. The client holds the other end of its standard input: when that closes, however the client ended,
the supervisor stops everything and removes the directory. It is run by its path, without site-packages, so
that it starts within about 20 ms.

Standard output carries at most two lines: `ready`, and the reason for an unexpected end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # an isolated interpreter without site-packages
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from stagefleet.supervisor import Process, Supervisor

SOCKET = "redis.sock"
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

    The arguments are the directory, and the commands of the server and of the worker as JSON lists. The
    worker inherits the supervisor's environment.
    """
    directory = Path(arguments[0])
    server_command, worker_command = (json.loads(argument) for argument in arguments[1:])
    supervisor = Supervisor((signal.SIGTERM,))
    children: list[Process] = []
    try:
        needed = {name: os.environ[name] for name in _OF_THE_SERVER if name in os.environ}
        server = supervisor.start(server_command, environment=needed, log=directory / SERVER_LOG)
        children.append(server)
        problem = _await_socket(supervisor, server, directory)
        if problem is None:
            children.append(supervisor.start(worker_command, log=directory / WORKER_LOG))
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
