"""Connections to Redis that end where another may do better, and tell a wrong scheme from an outage."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import redis
from redis.retry import Retry

from stagefleet.redis_answers import (
    RefusedError,
    TlsError,
    advice_for,
    advice_on_tls,
    code_of,
    is_passing,
    means_failover,
    never_got_through,
    reason_of,
)

__all__ = ["PassingRetry", "Peer", "checked"]

_PROBE_SECONDS = 1.0

if TYPE_CHECKING:
    _Connection = Any
else:
    _Connection = object  # each of redis-py's connections comes behind it: see `checked`


@dataclass(slots=True)
class Peer:
    """What the connections of one client know of the server together.

    Attributes:
        met: Whether it has answered as Redis does: then the URL's scheme is right.
        generation: Counts refusals of servers that are no primary: what was connected before may lead to one.
    """

    met: bool = False
    generation: int = 0


class PassingRetry(Retry):
    """redis-py's retries, for what may pass: a login that is refused is not tried again."""

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Any,
        is_retryable: Any = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> Any:
        """Call until it succeeds, fails for good, or has failed too often."""
        return super().call_with_retry(do, fail, is_retryable or _may_pass, with_failure_count)


def _may_pass(error: BaseException) -> bool:
    return not code_of(error) or is_passing(error)


@cache
def checked(connection_class: Any, refuses: Callable[[BaseException], bool] = means_failover) -> Any:
    """Make a class of connections that are checked.

    Args:
        connection_class: redis-py's: for TCP, TLS or a Unix socket.
        refuses: Tells of an answer whether it ends the connection, as a break does.
    """
    name = f"Checked{connection_class.__name__}"
    return type(name, (_Checked, connection_class), {"refuses": staticmethod(refuses)})


class _Checked(_Connection):  # type: ignore[misc]  # its base is chosen at run time
    """A connection that ends when the server refuses what another may grant.

    Attributes:
        generation: The peer's when it connected.
        handled: The identity of the error that was being handled when it was given out; for the pool.
    """

    refuses: Callable[[BaseException], bool]
    generation = 0
    handled = 0

    def __init__(self, *, peer: Peer | None = None, **options: Any) -> None:
        self._peer = peer
        super().__init__(**options)

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Connect, unless it is connected.

        Raises:
            TlsError: The server wants TLS otherwise than the URL; found out where it has never answered.
        """
        if self.is_connected:
            return
        peer = self._peer
        try:
            super().connect_check_health(check_health, retry_socket_connect)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if peer is not None and not peer.met and not code_of(error) and not never_got_through(error):
                self._check_tls(error)
            raise
        if peer is not None:
            peer.met = True
            self.generation = peer.generation

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer.

        Raises:
            RefusedError: The server refused; the connection is closed.
        """
        try:
            return super().read_response(*arguments, **options)
        except redis.ResponseError as error:
            if isinstance(error, redis.exceptions.NoScriptError) or not self.refuses(error):
                raise  # a script that is not known is sent by whoever called it
            self.disconnect()
            if self._peer is not None:
                self._peer.generation += 1
            raise RefusedError(reason_of(error), status_code=code_of(error)) from error

    def _check_tls(self, error: Exception) -> None:
        """Find out whether TLS is why the server does not answer."""
        host, port = getattr(self, "host", None), getattr(self, "port", None)
        if host is None or port is None:
            return  # a Unix socket
        if not isinstance(self, redis.SSLConnection):
            if _greets_by_tls((host, port)):
                raise TlsError("speaks TLS: write rediss:// in STAGEFLEET_REDIS_URL") from error
            return
        advice = advice_on_tls(error)
        if advice is None and _speaks_plain((host, port)):
            advice = "answers without TLS: write redis:// in STAGEFLEET_REDIS_URL"
        if advice is None:
            advice = advice_for(_tls_alert((host, port)))
        if advice is not None:
            raise TlsError(advice) from error


def _speaks_plain(address: Any) -> bool:
    with suppress(OSError), socket.create_connection(address, _PROBE_SECONDS) as probe:
        probe.sendall(b"PING\r\n")
        return probe.recv(1) in {b"+", b"-"}
    return False


def _greets_by_tls(address: Any) -> bool:
    try:
        with _open_tls(address):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _tls_alert(address: Any) -> str:
    """Wait a moment for the alert that a client without a certificate is sent (RFC 8446, section 4.4.2.4)."""
    try:
        with _open_tls(address) as probe:
            probe.recv(1)
    except ssl.SSLError as error:
        return error.reason or ""
    except OSError:
        pass
    return ""


@contextmanager
def _open_tls(address: Any) -> Iterator[ssl.SSLSocket]:
    """Shake hands; nothing is said, so whose certificate it is does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(address, _PROBE_SECONDS) as probe, context.wrap_socket(probe) as wrapped:
        yield wrapped
