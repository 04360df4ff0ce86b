"""Last-used times of the images on hosts, and the store of what the fleet may lose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.redis_client import connect_redis, is_redis_error, map_redis_errors
from stagefleet.settings import Settings, SharedStateSettings

if TYPE_CHECKING:
    import redis

__all__ = ["BestEffortStore", "LastUsed", "RedisLastUsed", "UsedImage"]

# Data in the fleet's Redis that may be lost: callers go on without it.

_log = EventLogger(__name__)


class BestEffortStore:
    """Base class of stores in the fleet's Redis whose loss does no harm.

    It warns once per outage, not once per call.
    """

    _what: ClassVar[str]
    """Name of the data, for the warning."""
    _keys: ClassVar[str]
    """Prefix of the keys, after the fleet's own prefix."""

    def __init__(self, client: redis.Redis, *, prefix: str, settings: SharedStateSettings) -> None:
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = f"{prefix}{self._keys}:"
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


# Last-used times of the images on each host, for clean-up.
#
# Lost times do no harm: an image without one counts as of unknown use.

# On a host's sorted set (KEYS[1]); ARGV: milliseconds to add to the clock, image, bound, lifetime in ms.
_NOTE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
"""


@dataclass(frozen=True, slots=True)
class UsedImage:
    """An image on a host, and the time of its last use.

    Attributes:
        image: Its name in the host's engine.
        last_used_ms: Time of its last use, in milliseconds since 1970.
    """

    image: str
    last_used_ms: int


class LastUsed(Protocol):
    """Last-used times by host; bounded, the longest unused are dropped first. Thread-safe."""

    def note(self, host: str, image: str) -> None:
        """Record that an image is used now; ignores an unreachable store."""

    def forget(self, host: str, image: str) -> None:
        """Record that an image was removed from a host; ignores an unreachable store."""

    def used_images(self, host: str) -> list[UsedImage]:
        """List the images of a host with their last use, the longest unused first.

        Raises:
            RedisUnreachableError: The store is unreachable.
        """


class RedisLastUsed(BestEffortStore):
    """`LastUsed` in the fleet's Redis: a sorted set per host, by the server's clock.

    Attributes:
        clock_offset_ms: Added to the server's clock; for tests, which cannot wait.
    """

    _what, _keys = "last_used", "last-used"

    def __init__(self, client: redis.Redis, *, prefix: str, settings: SharedStateSettings) -> None:
        super().__init__(client, prefix=prefix, settings=settings)
        self.clock_offset_ms = 0
        self._bounds = [settings.used_images, round(settings.lifetime_seconds * 1000)]
        self._note = client.register_script(_NOTE)

    def note(self, host: str, image: str) -> None:
        with self._calls():
            self._note(keys=[self._prefix + host], args=[self.clock_offset_ms, image, *self._bounds])

    def forget(self, host: str, image: str) -> None:
        with self._calls():
            self._redis.zrem(self._prefix + host, image)

    def used_images(self, host: str) -> list[UsedImage]:
        with map_redis_errors(self._redis):
            found = self._redis.zrange(self._prefix + host, 0, -1, withscores=True)
        return [UsedImage(image.decode(), round(score)) for image, score in found]
