"""A front before a registry, as gateways are: it forwards each request, or answers it by itself."""

from __future__ import annotations

import http.client
import sys
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

__all__ = ["Answer", "Asked", "RegistryFront"]

_TIMEOUT_SECONDS = 30
_HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Answer(NamedTuple):
    """What the front says instead of the registry."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Asked(NamedTuple):
    """A request as the front reads it; the path with its query."""

    method: str
    path: str
    headers: Message
    body: bytes


Rule = Callable[[str, str], Answer | None]


class _Server(ThreadingHTTPServer):
    """A server that finds nothing in it when a client goes away before it is answered."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RegistryFront:
    """A front on a loopback port; use it in a `with`. A subclass may look at more than its rule.

    Attributes:
        host: `127.0.0.1:PORT`.
        rule: Told the method and the path of each request; what it returns is the answer, None to forward it.
        requests: Method, path and status of each request, in the order of completion.
    """

    def __init__(self, registry: str, rule: Rule = lambda _method, _path: None) -> None:
        """Make one before the registry at an address `HOST:PORT`."""
        self.registry = registry
        self.rule = rule
        self.requests: list[tuple[str, str, int]] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            default_request_version = "HTTP/1.1"  # to TLS the answer is HTTP, too: engines then go without it

            def log_message(self, *_: object) -> None:
                return

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = front.answer(Asked(self.command, self.path, self.headers, body))
                front.requests.append((self.command, urlsplit(self.path).path, answer.status))
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - http.server's

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.host = f"127.0.0.1:{self._server.server_port}"

    def answer(self, asked: Asked) -> Answer:
        """Answer a request by the rule, else as the registry does."""
        return self.rule(asked.method, urlsplit(asked.path).path) or self.forward(asked)

    def forward(self, asked: Asked) -> Answer:
        """Send a request on, and return the registry's answer."""
        connection = http.client.HTTPConnection(self.registry, timeout=_TIMEOUT_SECONDS)
        try:
            headers = {k: v for k, v in asked.headers.items() if k.lower() not in _HOP_HEADERS}
            connection.request(asked.method, asked.path, asked.body or None, headers)
            response = connection.getresponse()
            content = response.read()
            hop = _HOP_HEADERS - ({"content-length"} if asked.method == "HEAD" else set())
            kept = ((k, v) for k, v in response.getheaders() if k.lower() not in hop)
            return Answer(response.status, content, tuple(kept))
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
