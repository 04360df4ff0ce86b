"""The one border to Redis: how it is connected to, and what its errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from stagefleet.errors import RedisUnreachableError, SettingsError

__all__ = ["connect_redis", "masked_url", "reaching"]

_SOCKET_TIMEOUT_SECONDS = 5
_CONNECT_TIMEOUT_SECONDS = 3
_RETRIES = 3
_HEALTH_CHECK_SECONDS = 10


class _Pool(redis.ConnectionPool):
    """Connections, given and taken back without ceremony.

    redis-py (8.1) counts each for metrics that nobody collects, and asks the socket before each command
    whether it was closed: a third of what a command costs. A connection that was closed is found out by the
    command itself, which is sent again on a new one as after any break, and a silent one by the health check.
    """

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:  # noqa: ARG002 - redis-py's signature
        """A connection that is connected."""
        self._checkpid()
        with self._lock:
            connection = self._available_connections.pop() if self._available_connections else None
            if connection is None:
                connection = self.make_connection()
            self._in_use_connections.add(connection)
        try:
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
            if self.owns_connection(connection):
                self._available_connections.append(connection)
                return
        connection.disconnect()


def connect_redis(url: str) -> redis.Redis:
    """A client with time-outs everywhere; it connects at its first command, from many threads.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with login and database number as redis-py reads them.

    Raises:
        SettingsError: The URL is malformed.
    """
    try:
        pool = _Pool.from_url(
            url,
            protocol=2,  # one shape of answers, with every server since Redis 6
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), _RETRIES),
        )
        return redis.Redis.from_pool(pool)
    except ValueError as error:
        raise SettingsError(
            f"the Redis URL {masked_url(url)} is malformed ({error}): write redis://HOST:PORT/DATABASE"
        ) from None


def masked_url(url: str) -> str:
    """A URL as it may be shown: without its password."""
    parts = urlsplit(url)
    try:
        secret = parts.password
    except ValueError:
        return f"{parts.scheme}://..."
    return url.replace(f":{secret}@", ":***@", 1) if secret else url


def _address(client: redis.Redis) -> str:
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")


@contextmanager
def reaching(client: redis.Redis) -> Iterator[None]:
    """Turn errors of the connection into `RedisUnreachableError`; others are bugs and pass."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise RedisUnreachableError(f"Redis at {_address(client)} refuses the login: {error}") from error
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError) as error:
        raise RedisUnreachableError(
            f"Redis at {_address(client)} does not answer ({error}): start it or correct STAGEFLEET_REDIS_URL"
        ) from error
    except redis.OutOfMemoryError as error:
        raise RedisUnreachableError(
            f"Redis at {_address(client)} is out of memory: raise its maxmemory, or let runs expire sooner"
        ) from error
