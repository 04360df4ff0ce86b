"""Requests to one origin over connections of its own, where no proxy stands before it.

The connections are urllib3's; one request goes out in one piece, and its answer's header is read without
the email package. Both together take a third of the calls that urllib3 and http.client make of it. Proxies,
with their tunnels and logins, are left to those.

Source: RFC 9112, sections 2 to 6.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions

from stagefleet.registry.http.adapter import CHUNK_BYTES, Connection, RegistryResponse, TlsConnection
from stagefleet.registry.http.origins import Origin, origin_of
from stagefleet.registry.http.waits import current_deadline

_Connection = Connection | TlsConnection

_MOST_IDLE = 128
_TOGETHER_BYTES = 64 * 1024
"""Largest body that goes in one piece with the header."""
_LOOK_SECONDS = 1.0
"""How long connections count as idle once they were seen so."""
_MOST_LINE_BYTES = 64 * 1024  # as http.client
_MOST_FIELDS = 100  # as http.client
_MOST_INTERIM = 20
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) +([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(r"[\0\r\n]")
_TARGET = re.compile(r"/[!-~]*")
_NUMBER = re.compile(r"[0-9]{1,18}")
_SWITCHING, _NO_CONTENT, _NOT_MODIFIED = 101, 204, 304


class ResponseHeaders(dict[str, str]):
    """Fields of a header by their names in lower case, in which look-ups ignore the case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, several of one name joined by commas (RFC 9110, section 5.3)."""
        return super().get(name.lower(), default)


class OriginConnections:
    """Connections to one origin, `scheme://host[:port]`, kept for later requests; thread-safe."""

    def __init__(self, origin: str, context: ssl.SSLContext | None) -> None:
        self._origin = origin
        self._context = context
        self._address = origin_of(origin)
        self._host = _host_field(self._address)
        self._idle: deque[_Connection] = deque()
        self._is_closed = False
        self._looked_at = -_LOOK_SECONDS

    def close(self) -> None:
        """Close the idle connections, and each other one with its response."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def prepare(self, count: int) -> list[Callable[[], None]]:
        """Return what opens connections until so many are idle; call each under a deadline."""
        now = time.monotonic()
        if len(self._idle) >= count and now - self._looked_at < _LOOK_SECONDS:
            return []
        self._looked_at = now
        seen = [self._connected() for _ in range(min(count, len(self._idle)))]
        idle = [connection for connection in seen if connection is not None]
        self._idle.extend(idle)
        return [self._open] * (count - len(idle))

    def send(self, request: requests.PreparedRequest) -> RegistryResponse:
        """Send a request under the current deadline; its `Content-Length` is that of its body.

        The errors are urllib3's and the socket's.
        """
        head = self._head_of(request)
        connection, answer = self._connected() or self._new_connection(), None
        try:
            with _AS_URLLIB3:
                _send(connection, head, request.body)
                answer = _Answer(connection.sock, str(request.method))
                if (deadline := current_deadline()) is not None:
                    deadline.begin_answer()
                answer.begin()
        except BaseException:
            if answer is not None:
                answer.close()
            connection.close()
            raise
        answer.keep(connection, self._keep)
        return RegistryResponse(request, answer, answer.fields)

    def _head_of(self, request: requests.PreparedRequest) -> bytes:
        target = str(request.url).removeprefix(self._origin)
        if not target.startswith("/") or "#" in target:
            parts = urlsplit(str(request.url))
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if _TARGET.fullmatch(target) is None:
            raise ValueError("the URL of a request has characters that no URL has")
        lines = [f"{request.method} {target} HTTP/1.1", f"Host: {self._host}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        if _NO_VALUE.search("".join(lines)):
            raise ValueError("a header of a request has the end of a line in it")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _connected(self) -> _Connection | None:
        """Take an idle connection that the server has not closed, if there is one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_connected:
                return connection
            connection.close()

    def _new_connection(self) -> _Connection:
        (_, host, port), context = self._address, self._context
        connection = TlsConnection(host, port, ssl_context=context) if context else Connection(host, port)
        try:
            with _AS_URLLIB3:
                connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self) -> None:
        self._keep(self._new_connection())

    def _keep(self, connection: _Connection) -> None:
        self._idle.append(connection)
        if self._is_closed or len(self._idle) > _MOST_IDLE:
            self._idle.popleft().close()


def _host_field(address: Origin) -> str:
    """Return the value of `Host` (RFC 9110, section 7.2)."""
    name = f"[{address.host}]" if ":" in address.host else address.host
    return name if address.is_default else f"{name}:{address.port}"


class _AsUrllib3:
    """Raise errors of sockets and of http.client in a block as urllib3 does."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ssl.SSLError):  # it is an OSError, too
            raise exceptions.SSLError(error) from error
        if isinstance(error, http.client.HTTPException):
            raise exceptions.ProtocolError("Connection broken", error) from error


_AS_URLLIB3 = _AsUrllib3()


def _send(connection: _Connection, head: bytes, body: Any) -> None:
    """Send a request; if the server hangs up meanwhile, it may have answered already."""
    sock: socket.socket = connection.sock
    deadline = current_deadline()
    if deadline is not None:
        deadline.begin("sending the request")
    try:
        if body is None or (isinstance(body, bytes) and len(body) <= _TOGETHER_BYTES):
            sock.sendall(head + (body or b""))
            return
        sock.sendall(head)
        if isinstance(body, bytes):
            sock.sendall(body)
            return
    except (BrokenPipeError, ConnectionResetError):
        return
    while piece := body.read(CHUNK_BYTES):
        if deadline is not None:
            deadline.begin("sending a piece of the body")
        try:
            sock.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return


class _Answer(http.client.HTTPResponse):
    """A response; http.client reads what is chunked.

    Its connection is kept for another request once the body has been read, and else closed.

    Attributes:
        has_ended: True once the body has been read, or the response was closed.
    """

    has_ended = False
    _connection: _Connection | None = None
    _keep: Callable[[_Connection], None]

    def __init__(self, sock: socket.socket, method: str) -> None:
        super().__init__(sock, method=method)
        self.fields = ResponseHeaders()
        self._has_body = method != "HEAD"
        self._left: int | None = None

    def begin(self) -> None:
        """Read the header."""
        for _ in range(_MOST_INTERIM):
            minor_version, self.status, self.reason = _read_status(self.fp)
            self.fields = _read_fields(self.fp)
            if self.status // 100 != 1 or self.status == _SWITCHING:
                break
        else:
            raise http.client.HTTPException("too many interim responses")
        self.code = self.status
        options = self.fields.get("connection", "").lower()
        self.will_close = "close" in options or (not minor_version and "keep-alive" not in options)
        self._frame_body()

    def _frame_body(self) -> None:
        """Find out where the body ends (RFC 9112, section 6.3)."""
        coding, length = self.fields.get("transfer-encoding"), self.fields.get("content-length")
        self.chunked, self.chunk_left = False, None
        if not self._has_body or self.status in {_SWITCHING, _NO_CONTENT, _NOT_MODIFIED}:
            self._left = 0
        elif coding is not None:
            self.chunked = coding.strip().lower() == "chunked"
            # With a length besides, two readers may see two ends: nothing more is read from it.
            self.will_close = self.will_close or length is not None or not self.chunked
        elif length is not None:
            lengths = {text.strip() for text in length.split(",")}
            if len(lengths) > 1 or _NUMBER.fullmatch(min(lengths)) is None:
                raise http.client.HTTPException("a length of the body that is none")
            self._left = int(min(lengths))
        else:
            self.will_close = True
        self.length = self._left

    def keep(self, connection: _Connection, keep: Callable[[_Connection], None]) -> None:
        """Give the connection to `keep` at the end of the body."""
        self._connection, self._keep = connection, keep
        if self._left == 0:
            self._end()

    def read1(self, size: int = -1) -> bytes:
        """Return what has arrived, at most `size` bytes; b"" at the end."""
        if self.has_ended:
            return b""
        try:
            with _AS_URLLIB3:
                piece, has_ended = self._read(size)
        except BaseException:
            self.close()
            raise
        if has_ended:
            self._end()
        return piece

    def _read(self, size: int) -> tuple[bytes, bool]:
        """Read what has arrived; also return True if the body ends with it."""
        if self.chunked:
            piece = super().read1(size)
            return piece, self.isclosed()
        if self._left is None:
            piece = self.fp.read1(size)
            return piece, not piece
        piece = self.fp.read1(min(size, self._left))
        if not piece and size:
            raise http.client.IncompleteRead(b"", self._left)
        self._left -= len(piece)
        return piece, not self._left

    def release_conn(self) -> None:
        """Do nothing: the end of the body releases the connection."""

    def close(self) -> None:
        """Close it, with its connection if there may be more of the body."""
        self.will_close = True
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        connection, self._connection = self._connection, None
        super().close()
        if connection is None:
            return
        if self.will_close:
            connection.close()
        else:
            self._keep(connection)


def _read_status(stream: Any) -> tuple[int, int, str]:
    """Read the status line: minor version, status and reason."""
    line = stream.readline(_MOST_LINE_BYTES + 1)
    if not line:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    found = _STATUS_LINE.fullmatch(line.decode("latin-1"))
    if found is None:
        raise http.client.BadStatusLine("no HTTP")
    return int(found[1]), int(found[2]), found[3] or ""


def _read_fields(stream: Any) -> ResponseHeaders:
    """Read the fields of a header; several of one name are joined."""
    fields, name = dict[str, str](), ""
    for _ in range(_MOST_FIELDS + 1):
        line = stream.readline(_MOST_LINE_BYTES + 1)
        if line in {b"\r\n", b"\n"}:
            return ResponseHeaders(fields)
        if len(line) > _MOST_LINE_BYTES:
            raise http.client.LineTooLong("header line")
        if not line:
            raise http.client.RemoteDisconnected("Remote end closed connection in the header")
        text = line.decode("latin-1").rstrip("\r\n")
        if text[0] in " \t" and name:  # a value that goes on (RFC 9112, section 5.2)
            fields[name] = f"{fields[name]} {text.strip()}"
            continue
        told, colon, value = text.partition(":")
        if not colon or _FIELD_NAME.fullmatch(told) is None or _NO_VALUE.search(value):
            raise http.client.HTTPException("a header line that is none")
        name, value = told.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    raise http.client.HTTPException(f"more than {_MOST_FIELDS} header lines")
