"""A proxy that speaks TLS to its clients and none to what stands behind it: Valkey's wheel knows no TLS."""

from __future__ import annotations

import selectors
import socket
import ssl

from tests.services.listener import Listener
from tests.services.tls import Tls


class TlsProxy(Listener):
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
        super().__init__()
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(tls.server_certificate, tls.server_key)
        if asks_for_certificate:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(tls.ca_file)

    def _serve(self, connection: socket.socket) -> None:
        with (
            self._context.wrap_socket(connection, server_side=True) as near,
            socket.create_connection(self._target) as far,
        ):
            _pass_on(near, far)


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
