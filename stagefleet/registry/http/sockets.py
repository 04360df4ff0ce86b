"""Sockets that obey the deadline of the current request and the lease of its item, and TLS contexts.

The time-out of an ordinary socket is for one call: a server that sends a byte now and then can hold a
client for ever, and a client that waits for a minute does not notice a cancelled item.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from stagefleet.errors import SettingsError
from stagefleet.registry.http.origins import HUB_API, ip_address_of
from stagefleet.registry.http.waits import Deadline, current_deadline
from stagefleet.settings import RegistrySettings

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
    if ip_address_of(host) is not None:
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
    elif registry.ca_file is None:
        add_host_certificates(context, host)
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


# Certificates that Docker and Podman keep for a registry: `certs.d/HOST[:PORT]`.
#
# Sources: docker documentation, "Verify repository client with certificates"; containers-certs.d(5).


def _certificate_folders() -> list[Path]:
    """Return where the tools look, the user's own first."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return [Path(config) / "containers/certs.d", Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d")]


def add_host_certificates(context: ssl.SSLContext, host: str) -> None:
    """Trust `*.crt` besides the others, and show `*.cert` with its `*.key`, of the first folder that exists.

    `SettingsError` names a file that cannot be used.
    """
    name = "docker.io" if host == HUB_API else host
    if "/" in name or name.startswith("."):
        return
    folder = next((found for base in _certificate_folders() if _is_folder(found := base / name)), None)
    for file in sorted(folder.iterdir()) if folder else ():
        try:
            if file.suffix == ".crt":
                context.load_verify_locations(cafile=file)
            elif file.suffix == ".cert":
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(file, file.with_suffix(".key"), password=lambda: "")
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
            raise SettingsError(f"{file}, which is for {host}, cannot be used: {reason}") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not ours to read
        return False
