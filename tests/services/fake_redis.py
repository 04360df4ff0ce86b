"""A server that speaks Redis's protocol and answers as it is told, also what no real one says on demand."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import hiredis

from tests.services.listener import Listener

_GREETINGS = {
    b"AUTH": b"+OK",
    b"CLIENT": b"+OK",
    b"HELLO": b"%1\r\n$5\r\nproto\r\n:3",
    b"PING": b"+PONG",
    b"SELECT": b"+OK",
}
"""What clients begin with, and what they are answered."""


class FakeRedis(Listener):
    """Answers each command alike, but for those that a client begins with.

    Attributes:
        answer: The line that commands are answered with, without its end; or what tells it by the command.
        commands: What it was asked.
        port: Its port.
    """

    def __init__(self) -> None:
        """Prepare a server; `start` starts it."""
        super().__init__()
        self.answer: bytes | Callable[[list[bytes]], bytes] = b"+OK"
        self.commands: list[list[bytes]] = []

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://{self.host}/0"

    def reply_to(self, command: Any) -> bytes:
        """Make the answer to a command."""
        if not isinstance(command, list):
            return b"-ERR Protocol error"
        self.commands.append(command)
        name = command[0].upper()
        if name in _GREETINGS:
            return _GREETINGS[name]
        return self.answer(command) if callable(self.answer) else self.answer

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        while data := connection.recv(65536):
            reader.feed(data)
            commands = iter(reader.gets, False)  # noqa: FBT003 - what `gets` gives for no command
            connection.sendall(b"".join(self.reply_to(command) + b"\r\n" for command in commands))
