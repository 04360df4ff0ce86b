"""Clients of redis-py as this library uses them: time-outs, retries, no connection with an unread answer."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from stagefleet import redis_errors
from stagefleet.errors import SettingsError
from stagefleet.redaction import masked_url, remember_secret

if TYPE_CHECKING:
    _Connection = Any
else:
    _Connection = object  # stands for each of redis-py's connection classes: see `checked`

_HIREDIS: Any = importlib.import_module("hiredis") if importlib.util.find_spec("hiredis") else None
"""It is in an extra: workers have it."""

_SOCKET_TIMEOUT_SECONDS = 5
_CONNECT_TIMEOUT_SECONDS = 3
_RETRIES = 3
_HEALTH_CHECK_SECONDS = 10
_FRESH_SECONDS = 1.0
"""Time after its last use for which a connection is taken without a look at its socket."""
_MOST_CONNECTIONS = 1000
"""The maximum per client: above two per thread, with 256 threads in a process."""

_SPELLING = (
    "write redis://USER:PASSWORD@HOST:PORT/DATABASE, and in user and password each of / ? # @ : % as %2F %3F "
    "%23 %40 %3A %25"
)
_DATABASE = re.compile(r"/?[0-9]{0,9}/?")
_REFUSALS = {
    r"unexpected keyword argument ('\w+')": "there is no option {} for this scheme",
    r"Invalid value for ('\w+')": "the option {} has no such value",
    r"Requirements Flag: (\w{1,20})$": "the option 'ssl_cert_reqs' has no value {}",
}
"""Our words for what redis-py says of an option."""


class _Pool(redis.ConnectionPool):
    """redis-py's connection pool; it never hands out a connection with an unread answer.

    If a command is interrupted (Ctrl-C between sending and reading), its connection is closed. redis-py
    checks only for answers that have arrived.
    """

    def __init__(self, connection_class: Any = redis.Connection, **options: Any) -> None:
        super().__init__(connection_class=checked(connection_class), peer=Peer(), **options)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:  # noqa: ARG002 - redis-py's signature
        connection: Any = self._take_idle() or super().get_connection()
        connection.handled = id(sys.exc_info()[1])
        return connection

    def release(self, connection: Any) -> None:
        """Return a connection to the pool; a second call does nothing."""
        if _was_interrupted(connection):
            connection.mark_for_reconnect()  # the pool closes it; to its next user this does no harm
        if connection.should_reconnect() or self.pid != os.getpid():
            super().release(connection)
            return
        connection.used_at = time.monotonic()
        with self._lock:
            if connection in self._in_use_connections:
                self._in_use_connections.remove(connection)
                self._available_connections.append(connection)

    def _take_idle(self) -> Any:
        """Return an idle connection that can be used as it is, if there is one.

        It and `release` do what redis-py does, without its metrics and events: a fifth of the calls.
        """
        if self.pid != os.getpid():
            return None  # after a fork they are the parent's
        with self._lock:
            if not self._available_connections:
                return None
            connection: Any = self._available_connections.pop()
            self._in_use_connections.add(connection)
        try:
            if connection.is_fresh:
                return connection
            if connection.is_connected:
                connection.connect()
                if not connection.can_read():  # else an answer that nobody has read, or the end
                    return connection
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            connection.disconnect()
        except BaseException:
            super().release(connection)
            raise
        super().release(connection)
        return None


def _was_interrupted(connection: Any) -> bool:
    """Return True for an exception that leaves an answer unread, which another command could read."""
    error = sys.exc_info()[1]
    return id(error) != connection.handled and not isinstance(error, redis.ResponseError)


def make_client(url: str) -> redis.Redis:
    """Create a client as `stagefleet.redis_client.connect_redis` says."""
    shown = masked_url(url)
    if shown.endswith("..."):
        raise SettingsError(f"the Redis URL {shown} is malformed: {_SPELLING}")
    try:
        _check_database(url, shown)
        pool = _Pool.from_url(
            url,
            protocol=2,  # the same answer format from every server since Redis 6
            max_connections=_MOST_CONNECTIONS,
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            retry=PassingRetry(ExponentialWithJitterBackoff(base=0.05, cap=1), _RETRIES),
        )
        secrets = (str(pool.connection_kwargs.get(name) or "") for name in ("password", "ssl_password"))
        remember_secret(*secrets)
        pool.connection_class(**pool.connection_kwargs)  # does not connect, but rejects unknown options
        return redis.Redis.from_pool(pool)
    except (ValueError, TypeError, redis.RedisError) as error:
        reason = _reason_of_refusal(error)
        raise SettingsError(f"the Redis URL {shown} is malformed ({reason}): {_SPELLING}") from None


def _check_database(url: str, shown: str) -> None:
    """Reject a path that is no database number: redis-py would use database 0."""
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"} and not _DATABASE.fullmatch(parts.path):
        raise SettingsError(f"the Redis URL {shown} is malformed (its database is no number): {_SPELLING}")


def _reason_of_refusal(error: Exception) -> str:
    """Explain why redis-py rejected a URL, without its own message: that may quote a part of the password."""
    for pattern, reason in _REFUSALS.items():
        if found := re.search(pattern, str(error)):
            return reason.format(found[1])
    return "there are the schemes redis, rediss and unix, and a port is a number"


def _pack(connection: Any, *words: Any) -> Any:
    """Encode a command as redis-py does, which looks at each word before hiredis does it again."""
    return connection.pack_command(*words) if _HIREDIS is None else [_HIREDIS.pack_command(words)]


class Script:
    """A Lua script on Redis; a call costs two thirds of the CPU of one through redis-py's client."""

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._pool = client.connection_pool
        self._script = client.register_script(text)

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate the script, with the client's retries; load it first if the server does not know it."""
        connection: Any = self._pool.get_connection()

        def evaluate() -> Any:
            connection.send_packed_command(packed)
            return connection.read_response()

        try:
            packed = _pack(connection, "EVALSHA", self._script.sha, 0, *arguments)
            return connection.retry.call_with_retry(evaluate, lambda _: connection.disconnect())
        except redis.exceptions.NoScriptError:
            pass  # the connection goes back to the pool first
        finally:
            self._pool.release(connection)
        return self._script(args=arguments)


# Redis connections that close when another may do better, and that detect a wrong URL scheme.

_PROBE_SECONDS = 1.0
_SILENT_SECONDS = 3.0
_LOGGER = logging.getLogger("stagefleet")


@dataclass(slots=True)
class Peer:
    """State that all connections of one client share.

    Attributes:
        met: True once the server has answered in the Redis protocol: the URL's scheme is right.
        asked_at: The time of the first attempt to connect.
        generation: Grows with each answer of a server that is not the primary; older connections may lead
            to such a server.
    """

    met: bool = False
    generation: int = 0
    asked_at: float | None = None

    def note_failure(self) -> None:
        """Log, once, that a server which has never answered does not answer for seconds."""
        if self.asked_at is not None and time.monotonic() - self.asked_at >= _SILENT_SECONDS:
            self.asked_at = math.inf
            _LOGGER.warning("Redis does not answer yet, and is asked again")


class PassingRetry(Retry):
    """redis-py's retries, limited to temporary errors: a rejected login is not retried."""

    def call_with_retry(  # noqa: D102 - as the base says
        self,
        do: Callable[[], Any],
        fail: Any,
        is_retryable: Any = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> Any:
        return super().call_with_retry(do, fail, is_retryable or _may_pass, with_failure_count)


def _may_pass(error: BaseException) -> bool:
    return not redis_errors.code_of(error) or redis_errors.is_passing(error)


@cache
def checked(
    connection_class: Any, refuses: Callable[[BaseException], bool] = redis_errors.means_failover
) -> Any:
    """Derive a connection class from redis-py's, which closes after an answer that it refuses."""
    name = f"Checked{connection_class.__name__}"
    return type(name, (_Checked, connection_class), {"refuses": staticmethod(refuses)})


class _Checked(_Connection):  # type: ignore[misc]  # the base is chosen at run time
    """A connection that closes when the server refuses what another server may accept.

    `generation` is the peer's when it connected; `handled` identifies the exception in progress when the pool
    handed it out; `used_at` is when it came back.
    """

    refuses: Callable[[BaseException], bool]
    generation = 0
    handled = 0
    used_at = -math.inf

    def __init__(self, *, peer: Peer | None = None, **options: Any) -> None:
        self._peer = peer
        super().__init__(**options)

    @property
    def is_fresh(self) -> bool:
        """True if it is connected, was used just now, and leads to the server that the others lead to."""
        return (
            time.monotonic() < self.used_at + _FRESH_SECONDS
            and self.is_connected
            and (self._peer is None or self.generation == self._peer.generation)
        )

    def connect(self) -> None:
        """Connect if not connected; the pool calls this for each use."""
        if self._peer is not None and self.generation != self._peer.generation:
            self.disconnect()  # another connection met a replica: this one may lead to it too
        super().connect()

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Connect if not connected; if the server has never answered, TLS may be why (`TlsError`)."""
        if self.is_connected:
            return
        peer = self._peer
        if peer is not None and peer.asked_at is None:
            peer.asked_at = time.monotonic()
        try:
            super().connect_check_health(check_health, retry_socket_connect)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if peer is not None and not peer.met:
                peer.note_failure()
                if not redis_errors.code_of(error) and not redis_errors.never_got_through(error):
                    self._check_tls(error)
            raise
        if peer is not None:
            peer.met = True
            self.generation = peer.generation

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer; a refusal closes the connection (`RefusedError`)."""
        try:
            return super().read_response(*arguments, **options)
        except redis.ResponseError as error:
            if isinstance(error, redis.exceptions.NoScriptError) or not self.refuses(error):
                raise  # the caller sends an unknown script again
            self.disconnect()
            if self._peer is not None:
                self._peer.generation += 1
            raise redis_errors.RefusedError(
                redis_errors.reason_of(error), status_code=redis_errors.code_of(error)
            ) from error

    def _check_tls(self, error: Exception) -> None:
        """Check if TLS is the reason why the server does not answer."""
        host, port = getattr(self, "host", None), getattr(self, "port", None)
        if host is None or port is None:
            return  # a Unix socket
        if not isinstance(self, redis.SSLConnection):
            if _greets_by_tls((host, port)):
                raise redis_errors.TlsError("speaks TLS: write rediss:// in STAGEFLEET_REDIS_URL") from error
            return
        advice = redis_errors.advice_on_tls(error)
        if advice is None and _speaks_plain((host, port)):
            advice = "answers without TLS: write redis:// in STAGEFLEET_REDIS_URL"
        if advice is None:
            advice = redis_errors.advice_for(_tls_alert((host, port)))
        if advice is not None:
            raise redis_errors.TlsError(advice) from error


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
    """Wait briefly for the alert that a client without a certificate receives (RFC 8446, section 4.4.2.4)."""
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
    """Perform a TLS handshake without verification: no data is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(address, _PROBE_SECONDS) as probe, context.wrap_socket(probe) as wrapped:
        yield wrapped
