"""A proxy that speaks TLS to its clients and none to what stands behind it: Valkey's wheel knows no TLS."""

from __future__ import annotations

import selectors
import socket
import socketserver
import ssl
from contextlib import suppress
from threading import Thread
from typing import Self

from tests.services.tls import Tls


class TlsProxy:
    """Takes the TLS off connections to a target.

    Attributes:
        port: Its port.
    """

    def __init__(self, target: str, tls: Tls, *, asks_for_certificate: bool = False) -> None:
        """Prepare a proxy; `start` starts it.

        Args:
            target: Where connections lead, as `HOST:PORT`.
            tls: Whose certificate it shows, and whose clients it trusts.
            asks_for_certificate: Whether clients must show one.
        """
        host, _, port = target.rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_certificate, tls.server_key)
        if asks_for_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(tls.ca_file)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with (
                    suppress(OSError),
                    context.wrap_socket(self.request, server_side=True) as near,
                    socket.create_connection((host, int(port))) as far,
                ):
                    _pass_on(near, far)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it; returns itself."""
        Thread(target=self._server.serve_forever, args=(0.01,), name="tls-proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        """End it; its connections end with their clients."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _pass_on(near: ssl.SSLSocket, far: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in selector.select():
                source, target = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    target.sendall(source.recv(65536))
