"""The border to Redis: clients, and the conversion of redis-py's errors to Stagefleet errors.

redis-py is loaded with the first client: it brings asyncio, and takes a third of a command's start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis


def connect_redis(url: str) -> redis.Redis:
    """Create a thread-safe client with time-outs for every operation; it connects at its first command.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with login and database number as redis-py reads them.

    Raises:
        SettingsError: The URL is malformed, or has an unknown option.
    """
    from stagefleet.redis_pool import make_client  # noqa: PLC0415 - loads redis-py

    return make_client(url)


@contextmanager
def map_redis_errors(client: redis.Redis) -> Iterator[None]:
    """Convert redis-py errors to Stagefleet errors; let bugs pass.

    Raises:
        RedisUnreachableError: Redis does not answer, or refuses for now.
        RedisConfigurationError: The server at the URL cannot be used as configured.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, UnicodeError) and not is_redis_error(error):
            raise
        from stagefleet.redis_errors import explain  # noqa: PLC0415 - loads redis-py

        explained = explain(error, address_of(client))
        if explained is None:
            raise
        raise explained from error


def is_redis_error(error: BaseException) -> bool:
    """Return True for an error that redis-py raised."""
    from redis import RedisError  # noqa: PLC0415 - loaded by now if the error is one

    return isinstance(error, RedisError)


def address_of(client: redis.Redis) -> str:
    """Return the address of Redis without its login."""
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
