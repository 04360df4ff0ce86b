"""The one border to Redis: how it is connected to, and what its errors become."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff

from stagefleet.errors import SettingsError
from stagefleet.redaction import masked_url, remember_secret
from stagefleet.redis_answers import explain
from stagefleet.redis_connections import PassingRetry, Peer, checked

__all__ = ["address_of", "connect_redis", "masked_url", "reaching"]

_SOCKET_TIMEOUT_SECONDS = 5
_CONNECT_TIMEOUT_SECONDS = 3
_RETRIES = 3
_HEALTH_CHECK_SECONDS = 10
_MOST_CONNECTIONS = 1000
"""Of one client: more than the threads of a process (256), each of which has one and may have another."""

_SPELLING = (
    "write redis://USER:PASSWORD@HOST:PORT/DATABASE, and in user and password each of / ? # @ : % as %2F %3F "
    "%23 %40 %3A %25"
)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument ('\w+')")
_WRONG_OPTION = re.compile(r"Invalid value for ('\w+')")
_WRONG_FLAG = re.compile(r"Requirements Flag: (\w{1,20})$")


class _Pool(redis.ConnectionPool):
    """Connections, given and taken back without ceremony.

    redis-py (8.1) counts each for metrics that nobody collects, and asks the socket before each command
    whether it was closed: a third of what a command costs. A connection that was closed is found out by the
    command itself, which is sent again on a new one as after any break, and a silent one by the health check.

    A connection with an answer that nobody has read is never given out: what interrupts a command (Ctrl-C
    between sending and reading) is seen when its connection comes back, which ends with it.
    """

    def __init__(self, connection_class: Any = redis.Connection, **options: Any) -> None:
        self._peer = Peer()
        super().__init__(connection_class=checked(connection_class), peer=self._peer, **options)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:  # noqa: ARG002 - redis-py's signature
        """A connection that is connected."""
        self._checkpid()
        with self._lock:
            connection: Any = self._available_connections.pop() if self._available_connections else None
            if connection is None:
                connection = self.make_connection()
            self._in_use_connections.add(connection)
        try:
            if connection.generation != self._peer.generation:
                connection.disconnect()  # a server refused as one that is no primary: this may lead to it too
            connection.handled = id(sys.exc_info()[1])
            connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        self._checkpid()
        with self._lock:
            if connection not in self._in_use_connections:
                return  # given back before: twice among the free ones, two threads would read one's answers
            self._in_use_connections.remove(connection)
            if _was_interrupted(connection):
                connection.disconnect()
            if self.owns_connection(connection):
                self._available_connections.append(connection)
                return
        connection.disconnect()


def _was_interrupted(connection: Any) -> bool:
    """Tell whether an error is on its way that is no answer: that may still come, and be read by another."""
    error = sys.exc_info()[1]
    return id(error) != connection.handled and not isinstance(error, redis.ResponseError)


def connect_redis(url: str) -> redis.Redis:
    """A client with time-outs everywhere; it connects at its first command, from many threads.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with login and database number as redis-py reads them.

    Raises:
        SettingsError: The URL is malformed, or has an option that there is not.
    """
    shown = masked_url(url)
    if shown.endswith("..."):
        raise SettingsError(f"the Redis URL {shown} is malformed: {_SPELLING}")
    try:
        pool = _Pool.from_url(
            url,
            protocol=2,  # one shape of answers, with every server since Redis 6
            max_connections=_MOST_CONNECTIONS,
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            retry=PassingRetry(ExponentialWithJitterBackoff(base=0.05, cap=1), _RETRIES),
        )
        secrets = (str(pool.connection_kwargs.get(name) or "") for name in ("password", "ssl_password"))
        remember_secret(*secrets)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but refuses unknown options
        return redis.Redis.from_pool(pool)
    except (ValueError, TypeError, redis.RedisError) as error:
        reason = _reason_of_refusal(error)
        raise SettingsError(f"the Redis URL {shown} is malformed ({reason}): {_SPELLING}") from None


def _reason_of_refusal(error: Exception) -> str:
    """Tell what redis-py found wrong with a URL, without its words: they may quote a part of the password."""
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


@contextmanager
def reaching(client: redis.Redis) -> Iterator[None]:
    """Turn what Redis answers instead of an answer into typed errors; what is a bug passes.

    Raises:
        RedisUnreachableError: Redis does not answer, or refuses for now.
        RedisConfigurationError: What is at the URL cannot be used as it is.
    """
    try:
        yield
    except (redis.RedisError, UnicodeError) as error:
        explained = explain(error, address_of(client))
        if explained is None:
            raise
        raise explained from error


def address_of(client: redis.Redis) -> str:
    """Where Redis is, without its login."""
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
