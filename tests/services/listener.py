"""What servers of the tests' own have in common that speak over plain TCP."""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class PostServer:
    """An HTTP server on a free loopback port, a thread a connection; a subclass answers what is posted."""

    def __init__(self) -> None:
        """Prepare a server; entering it starts it."""
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): text for name, text in self.headers.items()}
                status, content_type, content = answer(self.path, headers, body)
                self.send_response(status)
                if content_type:
                    self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def _answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Return status, content type ("" for none) and content; the headers' names are in lower case."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
