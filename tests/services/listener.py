"""What servers of the tests' own have in common that speak over plain TCP."""

from __future__ import annotations

import socket
import socketserver
from contextlib import suppress
from threading import Thread
from typing import Self


class Listener:
    """Serves each connection in a thread of its own, on a free loopback port; a subclass says how.

    Attributes:
        port: Its port.
    """

    def __init__(self) -> None:
        """Prepare a server; `start` starts it."""
        serve = self._serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # the other end has gone
                    serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def _serve(self, connection: socket.socket) -> None:
        """Serve a connection to its end."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it; returns itself."""
        name = type(self).__name__
        Thread(target=self._server.serve_forever, args=(0.01,), name=name, daemon=True).start()
        return self

    def stop(self) -> None:
        """End it; its connections end with their clients."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
