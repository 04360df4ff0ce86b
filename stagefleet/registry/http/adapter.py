"""Requests' adapter for one origin: TLS context, chunk size, and connections that obey deadlines.

It does once per origin what requests repeats for each call, and leaves out what registries do not need
(cookies, guessing encodings). This saves a quarter of a request's CPU time.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from stagefleet.errors import SettingsError
from stagefleet.registry.http.waits import Deadline, current_deadline
from stagefleet.settings import RegistrySettings

# Sockets that obey the deadline of the current request and the lease of its item.
#
# The time-out of an ordinary socket is for one call: a server that sends a byte now and then can hold a
# client for ever, and a client that waits for a minute does not notice a cancelled item.

_SENT_BYTES = 128 * 1024  # per call: an interrupted TLS write has to be repeated with the same buffer

_Result = TypeVar("_Result")
_Address = tuple[Any, Any, int, str, Any]


class _BoundedSocket:
    """Mixin that puts a socket class under a deadline; list it before that class."""

    def _wait(self: Any, operation: Callable[..., _Result], *arguments: Any) -> _Result:
        deadline = current_deadline()
        if deadline is None:
            return operation(*arguments)
        while True:
            seconds = deadline.slice_seconds()
            if self.gettimeout() != seconds:
                self.settimeout(seconds)
            try:
                return operation(*arguments)
            except TimeoutError as error:
                if error.errno is not None:  # from the kernel, not the end of our slice
                    raise

    def recv_into(self: Any, *arguments: Any) -> int:
        """Receive into a buffer, like `socket.recv_into`."""
        received: int = self._wait(super().recv_into, *arguments)  # type: ignore[misc]  # the socket class defines it
        return received

    def recv(self: Any, *arguments: Any) -> bytes:
        """Receive bytes, like `socket.recv`."""
        received: bytes = self._wait(super().recv, *arguments)  # type: ignore[misc]  # the socket class defines it
        return received

    def sendall(self: Any, data: Any, flags: int = 0) -> None:
        """Send all data, like `socket.sendall`."""
        send = super().send  # type: ignore[misc]  # the socket class defines it
        deadline = current_deadline()

        def leave(*arguments: Any) -> int:
            if deadline is not None:
                deadline.check_send_by()
            count: int = send(*arguments)
            return count

        with memoryview(data) as whole, whole.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self._wait(leave, left[sent : sent + _SENT_BYTES], flags)


class PlainSocket(_BoundedSocket, socket.socket):
    """A TCP connection."""


class TlsSocket(_BoundedSocket, ssl.SSLSocket):
    """A TLS connection, which resumes the session of an earlier one (RFC 8446, section 2.2).

    Set a class that `resuming` makes as `sslsocket_class` of a context.
    """

    _sessions: ClassVar[deque[ssl.SSLSession]] = deque(maxlen=0)
    _has_kept_session = False

    @classmethod
    def resuming(cls) -> type[TlsSocket]:
        """Make the class of one context's sockets: sessions are of one context."""
        return type(cls.__name__, (cls,), {"_sessions": deque(maxlen=1)})

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the ssl module's signature
        """Shake hands, like `SSLSocket.do_handshake`; resume an interrupted handshake."""
        if self._sessions:
            self.session = self._sessions[0]
        try:
            self._wait(super().do_handshake, block)
        except BaseException:
            self.close()  # the creator closes it only after errors of the ssl module
            raise

    def recv_into(self, *arguments: Any) -> int:
        """Receive into a buffer, like `socket.recv_into`; keep the session, which precedes the data."""
        received = super().recv_into(*arguments)
        if not self._has_kept_session and self.session is not None and self.session.has_ticket:
            self._has_kept_session = True
            self._sessions.append(self.session)
        return received


def open_socket(host: str, port: int, options: Iterable[tuple[Any, ...]]) -> socket.socket:
    """Connect to a host under the deadline of the current request; try each of its addresses.

    The host is a name or an IP address, without brackets; the options are for `setsockopt`.

    Raises:
        OSError: No address answers in time.
        UnicodeError: The name is invalid.
    """
    deadline = current_deadline()
    assert deadline is not None  # the transport sets one for each request
    addresses = _resolve(host, port, deadline)
    deadline.begin_connecting()
    failure = OSError("getaddrinfo returns an empty list")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        share_seconds = deadline.left_seconds() / (len(addresses) - number)
        sock = PlainSocket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            _connect(sock, address, deadline, share_seconds)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _resolve(host: str, port: int, deadline: Deadline) -> list[_Address]:
    """Look up a host's addresses in a thread: the resolver has no time-out that can be set."""
    if _is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    while True:
        try:
            answer = answers.get(timeout=deadline.slice_seconds())
        except queue.Empty:
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect(sock: socket.socket, address: Any, deadline: Deadline, seconds: float) -> None:
    """Connect within so many seconds, in short slices."""
    ends_with = deadline.left_seconds() - seconds
    sock.settimeout(min(deadline.slice_seconds(), max(seconds, 0.001)))
    try:
        sock.connect(address)
    except TimeoutError as error:
        if error.errno is not None:
            raise
    else:
        return
    waiting = select.poll()
    waiting.register(sock, select.POLLOUT)
    while not waiting.poll(1000 * min(deadline.slice_seconds(), max(deadline.left_seconds() - ends_with, 0))):
        if deadline.left_seconds() <= ends_with:
            raise TimeoutError("timed out")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


# TLS contexts from a registry's settings: trusted certificates and client certificates, read once per host.
#
# Without a `ca_file` the system's certificates count, as for curl, Docker and every other container tool;
# requests itself would use its bundled list, which lacks a company's own authority.

_SYSTEM = "the list of the system's certificates"


def make_context(host: str, registry: RegistrySettings) -> ssl.SSLContext:
    """Create the TLS context for a registry; `host` is for messages.

    `SettingsError` names a file from the settings that cannot be used, and the key.
    """
    try:
        context = ssl.create_default_context(cafile=registry.ca_file or _roots())
    except OSError as error:  # an ssl.SSLError is one
        raise _unusable(host, "ca_file", registry.ca_file, error) from error
    context.sslsocket_class = TlsSocket.resuming()
    if registry.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if registry.client_certificate is not None:
        _show_certificate(context, host, registry.client_certificate, registry.client_key)
    return context


def _roots() -> str | None:
    """Return the default file of trusted certificates; None for the system's.

    OpenSSL finds the system's itself, SSL_CERT_FILE and SSL_CERT_DIR included. A minimal container may have
    none: then the list bundled with requests is better than no registry.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return None
    return DEFAULT_CA_BUNDLE_PATH


def _show_certificate(context: ssl.SSLContext, host: str, certificate: Path, key: Path | None) -> None:
    def refuse() -> str:
        raise _unusable(host, "client_key", key or certificate, "its key is encrypted")

    try:
        # Without a callback OpenSSL asks for a password on the terminal, and a worker would hang.
        context.load_cert_chain(certificate, key, password=refuse)
    except OSError as error:
        raise _unusable(host, "client_certificate", certificate, error) from error


def _unusable(host: str, key: str, file: Path | None, reason: OSError | str) -> SettingsError:
    if isinstance(reason, ssl.SSLError):
        reason = reason.reason or "no PEM"
    elif isinstance(reason, OSError):
        reason = reason.strerror or type(reason).__name__
    return SettingsError(f'registries."{host}".{key}: {file or _SYSTEM} cannot be used ({reason})')


CHUNK_BYTES = 512 * 1024
"""Bytes of a blob held in memory at once. Larger chunks save system calls, smaller ones save memory."""
_CONNECTIONS_A_HOST = 128


class RegistryResponse(requests.Response):
    """A response whose body has not been read yet; its deadline bounds that reading, too."""

    deadline: Deadline | None = None


class Adapter(HTTPAdapter):
    """Connection pools for one origin, always through the same proxies; each request has a deadline.

    All requests go to `origin`, which is `scheme://host[:port]`.
    """

    def __init__(self, origin: str, context: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._pool: Any = None
        self._pool_options: dict[str, Any] = {"blocksize": CHUNK_BYTES}
        if context is not None:
            self._pool_options["ssl_context"] = context
        super().__init__(pool_connections=1, pool_maxsize=_CONNECTIONS_A_HOST, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools of a proxy; create them at the first call."""
        if proxy.lower().startswith("https:"):
            kwargs.setdefault("proxy_ssl_context", make_context(proxy, RegistrySettings()))
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Return the pool key of the host; requests also calls this for a proxy."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self._pool_options

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the origin's pool, looked up once."""
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def prepare_connections(self, count: int) -> list[Callable[[], None]]:
        """Return what opens connections until so many are idle; call each under a deadline."""
        request = requests.PreparedRequest()
        request.url = f"{self._origin}/"
        pool = self.get_connection_with_tls_context(request, verify=True)
        return [pool.open_connection] * max(count - pool.count_idle(), 0)

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the target for the request line."""
        target = (request.url or "").removeprefix(self._origin)
        if proxies or not target.startswith("/") or "#" in target:
            return super().request_url(request, proxies)
        return target

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Build the response; its body has not been read yet."""
        response = RegistryResponse()
        response.deadline = current_deadline()
        response.status_code = resp.status
        response.reason = resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        response.connection = self
        return response

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context holds all certificate settings."""


class _Bounded:
    """Mixin that puts a connection class under a deadline; list it before that class.

    urllib3 sends a body under the connect time-out on a new connection, and under the last response's
    time-out on a used one. It applies the time-out to each address of a host, and anew to each byte of a
    header.
    """

    def _new_conn(self: Any) -> socket.socket:
        try:
            return open_socket(self._dns_host.strip("[]"), self.port, self.socket_options or ())
        except UnicodeError:
            raise exceptions.LocationParseError(f"{self.host!r}, label empty or too long") from None
        except socket.gaierror as error:
            raise exceptions.NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise exceptions.ConnectTimeoutError(self, f"Connection to {self.host} timed out") from error
        except OSError as error:
            raise exceptions.NewConnectionError(
                self, f"Failed to establish a new connection: {error}"
            ) from error

    def putrequest(self: Any, *args: Any, **kwargs: Any) -> None:
        """Begin a request; everything before it counts as connecting."""
        if self.sock is None:
            self.connect()
        if (deadline := current_deadline()) is not None:
            deadline.begin("sending the request")
        super().putrequest(*args, **kwargs)  # type: ignore[misc]  # the connection class defines it

    def send(self: Any, data: Any) -> None:
        """Send a chunk; each chunk of a streamed body has its own time limit."""
        deadline = current_deadline()
        if deadline is not None and deadline.is_streamed and self.sock is not None:
            deadline.begin("sending a piece of the body")
        super().send(data)  # type: ignore[misc]  # the connection class defines it

    def getresponse(self: Any) -> Any:
        """Read the response's header."""
        if (deadline := current_deadline()) is not None:
            deadline.begin_answer()
        return super().getresponse()  # type: ignore[misc]  # the connection class defines it


class _Connection(_Bounded, HTTPConnection):
    pass


class _SecureConnection(_Bounded, HTTPSConnection):
    pass


class _Prepared:
    """Mixin that opens connections before they are needed; list it before a pool class."""

    def count_idle(self: Any) -> int:
        """Return how many connections are open and idle."""
        idle = list(self.pool.queue)
        return sum(connection is not None and connection.is_connected for connection in idle)

    def open_connection(self: Any) -> None:
        """Open one more connection, for any later request."""
        connection = self._new_conn()
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        with suppress(ValueError), self.pool.mutex:  # else there are as many as the pool may hold
            self.pool.queue.remove(None)  # a pool begins with a None for each connection that it may hold
        self._put_conn(connection)


class _Pool(_Prepared, HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(_Prepared, HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _SecurePool}
