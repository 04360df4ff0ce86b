"""A TCP server whose test says byte by byte what it does, for servers that no HTTP library would be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress


class RawServer:
    """Calls `serve(connection)` for each connection, once the head of a request has been read.

    Attributes:
        asked: Set once a request, or where `reads_head` is not, a connection has come.
        over: Set at the end: what waits between two bytes waits for this.
    """

    def __init__(self, serve: Callable[[RawServer, socket.socket], None], *, reads_head: bool = True) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()
        self.heads: list[bytes] = []
        self._serve = serve
        self._reads_head = reads_head
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[RawServer]:
        """Serve while the block lasts."""
        self._start(self._accept)
        try:
            yield self
        finally:
            self.over.set()
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for thread in self._threads:
                thread.join(10)

    def drip(self, connection: socket.socket, pieces: Iterable[bytes], seconds: float = 0.01) -> None:
        """Send pieces with a pause after each."""
        for piece in pieces:
            connection.sendall(piece)
            if self.over.wait(seconds):
                return

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._answer, self._listener.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while not self.over.is_set():
                if self._reads_head and not self._read_head(connection):
                    return
                self.asked.set()
                self._serve(self, connection)
                if not self._reads_head:
                    return

    def _read_head(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(1)
            if not piece:
                return False
            head += piece
        self.heads.append(head)
        return True


def one_by_one(text: bytes) -> list[bytes]:
    """Each byte by itself."""
    return [bytes([byte]) for byte in text]
