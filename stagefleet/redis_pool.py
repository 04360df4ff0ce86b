"""Clients of redis-py as this library uses them: time-outs, retries, no connection with an unread answer."""

from __future__ import annotations

import re
import sys
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff

from stagefleet.errors import SettingsError
from stagefleet.redaction import masked_url, remember_secret
from stagefleet.redis_connections import PassingRetry, Peer, checked

__all__ = ["make_client"]

_SOCKET_TIMEOUT_SECONDS = 5
_CONNECT_TIMEOUT_SECONDS = 3
_RETRIES = 3
_HEALTH_CHECK_SECONDS = 10
_MOST_CONNECTIONS = 1000
"""The maximum per client: above two per thread, with 256 threads in a process."""

_SPELLING = (
    "write redis://USER:PASSWORD@HOST:PORT/DATABASE, and in user and password each of / ? # @ : % as %2F %3F "
    "%23 %40 %3A %25"
)
_DATABASE = re.compile(r"/?[0-9]{0,9}/?")
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument ('\w+')")
_WRONG_OPTION = re.compile(r"Invalid value for ('\w+')")
_WRONG_FLAG = re.compile(r"Requirements Flag: (\w{1,20})$")


class _Pool(redis.ConnectionPool):
    """redis-py's connection pool; it never hands out a connection with an unread answer.

    If a command is interrupted (Ctrl-C between sending and reading), its connection is closed. redis-py
    checks only for answers that have arrived.
    """

    def __init__(self, connection_class: Any = redis.Connection, **options: Any) -> None:
        super().__init__(connection_class=checked(connection_class), peer=Peer(), **options)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:  # noqa: ARG002 - redis-py's signature
        """Return a connected connection."""
        connection: Any = super().get_connection()
        connection.handled = id(sys.exc_info()[1])
        return connection

    def release(self, connection: Any) -> None:
        """Return a connection to the pool; a second call does nothing."""
        if _was_interrupted(connection):
            connection.mark_for_reconnect()  # the pool closes it; to its next user this does no harm
        super().release(connection)


def _was_interrupted(connection: Any) -> bool:
    """Return True for an exception that leaves an answer unread, which another command could read."""
    error = sys.exc_info()[1]
    return id(error) != connection.handled and not isinstance(error, redis.ResponseError)


def make_client(url: str) -> redis.Redis:
    """Create a thread-safe client with time-outs for every operation; it connects at its first command.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with login and database number as redis-py reads them.

    Raises:
        SettingsError: The URL is malformed, or has an unknown option.
    """
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
    option = _UNKNOWN_OPTION.search(str(error))
    if option:
        return f"there is no option {option[1]} for this scheme"
    option = _WRONG_OPTION.search(str(error))
    if option:
        return f"the option {option[1]} has no such value"
    flag = _WRONG_FLAG.search(str(error))
    if flag:
        return f"the option 'ssl_cert_reqs' has no value {flag[1]}"
    return "there are the schemes redis, rediss and unix, and a port is a number"
