"""Data in the fleet's Redis that may be lost: callers go on without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.redis_client import RedisScripts, connect_redis, is_redis_error, map_redis_errors
from stagefleet.redis_keys import RedisKey
from stagefleet.settings import Settings, SharedStateSettings

if TYPE_CHECKING:
    import redis

_log = EventLogger(__name__)


class BestEffortStore:
    """Base class of stores in the fleet's Redis whose loss does no harm.

    It warns once per outage, not once per call.
    """

    _what: ClassVar[str]
    """Name of the data, for the warning."""
    _keys: ClassVar[RedisKey]

    def __init__(self, client: redis.Redis, *, prefix: str, settings: SharedStateSettings) -> None:
        self.scripts = RedisScripts(client, "stagefleet.shared_state", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._was_told = False

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the store for a URL; it connects at the first call.

        Raises:
            SettingsError: The URL is malformed.
        """
        return cls(connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.caches)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _key(self, name: str) -> str:
        return self._keys.of(self._prefix, name)

    def _drop_surplus(self, name: str, count: int) -> None:
        """Drop random entries of a hash that has more than the settings allow."""
        surplus = count - self._settings.entries
        if surplus > 0:
            with map_redis_errors(self._redis):
                self._redis.hdel(name, *self._redis.hrandfield(name, surplus))

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Run calls to Redis; an outage ends the block without an error."""
        try:
            with map_redis_errors(self._redis):
                yield
        except Exception as error:
            if not isinstance(error, StagefleetError) and not is_redis_error(error):
                raise
            if not self._was_told:
                self._was_told = True
                _log.warning(f"{self._what}_out_of_reach", action="cache", error=str(error))
        else:
            self._was_told = False
