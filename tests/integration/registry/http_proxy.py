"""An HTTP proxy as companies have it: CONNECT for TLS, whole URLs for plain HTTP, perhaps a password."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from contextlib import suppress
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 20


class HttpProxy:
    """A proxy that knows its targets by name alone, so that what goes through it has no other way.

    Attributes:
        host: `127.0.0.1:PORT`.
        asked: Method and target of the first request of each connection.
    """

    def __init__(self, targets, *, login=None):
        """Make one.

        Args:
            targets: Addresses `HOST:PORT` by the `NAME[:PORT]` that clients ask for.
            login: `USER:PASSWORD` that it wants.
        """
        self._targets, self._login = targets, login
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = []
        self._sockets = []
        self._thread = threading.Thread(target=self._serve, name="http-proxy")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join()

    def _serve(self):
        threads = []
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threads.append(threading.Thread(target=self._handle, args=(client,)))
                threads[-1].start()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _handle(self, client):
        client.settimeout(_TIMEOUT_SECONDS)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(65536)
            if not piece:
                return
            head += piece
        line = head.split(b"\r\n", 1)[0].decode()
        method, target, _ = line.split(" ")
        self.asked.append(f"{method} {target}")
        wanted = None if self._login is None else b"Basic " + b64encode(self._login.encode())
        if wanted is not None and wanted not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            client.shutdown(socket.SHUT_RDWR)
            return
        name = target if method == "CONNECT" else urlsplit(target).netloc
        address, port = self._targets[name].split(":")
        server = socket.create_connection((address, int(port)), timeout=_TIMEOUT_SECONDS)
        self._sockets.append(server)
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            server.sendall(head)  # Go's servers take whole URLs
        back = threading.Thread(target=_pump, args=(server, client))
        back.start()
        _pump(client, server)
        back.join()


def _pump(source, target):
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
