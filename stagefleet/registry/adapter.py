"""Requests' adapter for one origin: its TLS context, large pieces, and a time-out for what is sent.

Of what requests does each time, what is always the same for one origin is done once, and what registries have
no use for is left out (cookies, a guess at the encoding of texts): a quarter of a request's CPU time.
"""

from __future__ import annotations

import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["CHUNK_BYTES", "Adapter"]

CHUNK_BYTES = 512 * 1024
"""How much of a blob is in hand at once: larger saves system calls, smaller saves memory."""
_CONNECTIONS_A_HOST = 128


class Adapter(HTTPAdapter):
    """Connections to one origin, always through the same proxies.

    Args:
        origin: `scheme://host[:port]`; all requests are for it.
        context: How to speak TLS, None where plain HTTP is spoken.
        send_timeout_seconds: How long one piece of a body may take to be sent.
    """

    def __init__(self, origin: str, context: ssl.SSLContext | None, send_timeout_seconds: float) -> None:
        self._origin = origin
        self._pool: Any = None
        self._pool_options: dict[str, Any] = {"blocksize": CHUNK_BYTES}
        if context is not None:
            self._pool_options["ssl_context"] = context
        self._pools = _make_pools(send_timeout_seconds)
        super().__init__(pool_connections=1, pool_maxsize=_CONNECTIONS_A_HOST, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make or find the pools of a proxy."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """The pool of the host; also asked for where a proxy stands in between."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self._pool_options

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool of the origin, found once."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """What stands in the request's first line."""
        target = (request.url or "").removeprefix(self._origin)
        if proxies or not target.startswith("/") or "#" in target:
            return super().request_url(request, proxies)
        return target

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The answer, its body still to be read."""
        response = requests.Response()
        response.status_code = resp.status
        response.reason = resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        response.connection = self
        return response

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: all that could be said stands in the context."""


def _make_pools(send_timeout_seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """The kinds of connection pools by scheme.

    urllib3 sends a body under the connect time-out on a new connection, and under that of the last answer on
    a used one: a registry that takes its time over a large layer would be cut off after seconds.
    """

    class Connection(HTTPConnection):
        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(send_timeout_seconds)
            super().send(data)

    class SecureConnection(HTTPSConnection):
        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(send_timeout_seconds)
            super().send(data)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}
