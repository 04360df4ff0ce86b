"""A server that speaks Redis's protocol and answers as it is told, also what no real one says on demand."""

from __future__ import annotations

import socketserver
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, Self

import hiredis

_GREETINGS = {
    b"AUTH": b"+OK",
    b"CLIENT": b"+OK",
    b"HELLO": b"%1\r\n$5\r\nproto\r\n:3",
    b"PING": b"+PONG",
    b"SELECT": b"+OK",
}
"""What clients begin with, and what they are answered."""


class FakeRedis:
    """Answers each command alike, but for those that a client begins with.

    Attributes:
        answer: The line that commands are answered with, without its end; or what tells it by the command.
        commands: What it was asked.
        port: Its port.
    """

    def __init__(self) -> None:
        """Prepare a server; `start` starts it."""
        self.answer: bytes | Callable[[list[bytes]], bytes] = b"+OK"
        self.commands: list[list[bytes]] = []
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                reader = hiredis.Reader()
                with suppress(OSError):
                    while data := self.request.recv(65536):
                        reader.feed(data)
                        commands = iter(reader.gets, False)  # noqa: FBT003 - what `gets` gives for no command
                        self.request.sendall(
                            b"".join(fake.reply_to(command) + b"\r\n" for command in commands)
                        )

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def reply_to(self, command: Any) -> bytes:
        """Make the answer to a command."""
        if not isinstance(command, list):
            return b"-ERR Protocol error"
        self.commands.append(command)
        name = command[0].upper()
        if name in _GREETINGS:
            return _GREETINGS[name]
        return self.answer(command) if callable(self.answer) else self.answer

    def start(self) -> Self:
        """Start it; returns itself."""
        Thread(target=self._server.serve_forever, args=(0.01,), name="fake-redis", daemon=True).start()
        return self

    def stop(self) -> None:
        """End it; its connections end with their clients."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
