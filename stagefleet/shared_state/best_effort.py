"""Data in the fleet's Redis that may be lost: callers go on without it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stagefleet import redis_client
from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.settings import Settings, SharedStateSettings

if TYPE_CHECKING:
    import redis

_FIELDS_A_CALL = 1000

_log = EventLogger(__name__)


class BestEffortStore:
    """Base class of stores in the fleet's Redis whose loss does no harm.

    It warns once per outage, not once per call.
    """

    _what: ClassVar[str]
    """Name of the data, for the warning."""
    _keys: ClassVar[redis_client.RedisKey]

    def __init__(self, client: redis.Redis, *, prefix: str, settings: SharedStateSettings) -> None:
        self.scripts = redis_client.RedisScripts(client, "stagefleet.shared_state", prefix=prefix)
        self._redis: Any = client  # redis-py types each reply as the union over all its settings
        self._prefix = prefix
        self._settings = settings
        self._was_told = False

    @classmethod
    def connect(cls, redis_url: str, settings: Settings) -> Self:
        """Create the store for a URL, connected at the first call; `SettingsError` if it is malformed."""
        return cls(
            redis_client.connect_redis(redis_url), prefix=settings.key_prefix, settings=settings.caches
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _key(self, name: str) -> str:
        return self._keys.of(self._prefix, name)

    def _read_fields(self, name: str, fields: Sequence[str | bytes]) -> list[bytes | None]:
        """Return the values of fields of a hash, or of none in an outage."""
        found: list[bytes | None] = []
        with self._calls():
            pipe = self._redis.pipeline(transaction=False)
            for first in range(0, len(fields), _FIELDS_A_CALL):
                pipe.hmget(self._key(name), fields[first : first + _FIELDS_A_CALL])
            found.extend(value for answer in pipe.execute() for value in answer)
        return found

    def _drop_surplus(self, name: str, count: int) -> None:
        """Drop random entries of a hash that has more than the settings allow."""
        surplus = count - self._settings.entries
        if surplus > 0:
            with redis_client.map_redis_errors(self._redis):
                self._redis.hdel(name, *self._redis.hrandfield(name, surplus))

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Run calls to Redis; an outage ends the block without an error."""
        try:
            with redis_client.map_redis_errors(self._redis):
                yield
        except Exception as error:
            if not isinstance(error, StagefleetError) and not redis_client.is_redis_error(error):
                raise
            if not self._was_told:
                self._was_told = True
                _log.warning(f"{self._what}_out_of_reach", action="cache", error=str(error))
        else:
            self._was_told = False


@dataclass(frozen=True, slots=True)
class UsedImage:
    """An image in a host's engine, and the time of its last use, in milliseconds since 1970."""

    image: str
    last_used_ms: int


class LastUsed(ABC):
    """Last-used times of images by host, for clean-up; thread-safe.

    It is bounded: the longest unused are dropped first. An image without a time counts as of unknown use.
    """

    @abstractmethod
    def note(self, host: str, image: str) -> None:
        """Record that an image is used now; ignores an unreachable store."""

    @abstractmethod
    def forget(self, host: str, image: str) -> None:
        """Record that an image was removed from a host; ignores an unreachable store."""

    @abstractmethod
    def used_images(self, host: str) -> list[UsedImage]:
        """List the images of a host, the longest unused first; raises if the store is unreachable."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


class RedisLastUsed(BestEffortStore, LastUsed):
    """The records of a fleet: a sorted set per host, by the server's clock."""

    _what, _keys = "last_used", redis_client.LAST_USED

    def note(self, host: str, image: str) -> None:
        settings = self._settings
        with self._calls():
            lifetime_ms = redis_client.milliseconds(settings.lifetime_seconds)
            self.scripts.call("note_used", host, image, settings.used_images, lifetime_ms)

    def forget(self, host: str, image: str) -> None:
        with self._calls():
            self._redis.zrem(self._key(host), image)

    def used_images(self, host: str) -> list[UsedImage]:
        with redis_client.map_redis_errors(self._redis):
            found = self._redis.zrange(self._key(host), 0, -1, withscores=True)
        return [UsedImage(image.decode(), round(score)) for image, score in found]


class MemoryLastUsed(LastUsed):
    """Last-used records of one process; the clock returns seconds since 1970."""

    def __init__(
        self, settings: SharedStateSettings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._bound = (SharedStateSettings() if settings is None else settings).used_images
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, dict[str, int]] = {}  # the images of each host in the order of their last use

    def note(self, host: str, image: str) -> None:
        with self._lock:
            used = self._used.setdefault(host, {})
            used.pop(image, None)
            used[image] = round(self._clock() * 1000)
            while len(used) > self._bound:
                del used[next(iter(used))]

    def forget(self, host: str, image: str) -> None:
        with self._lock:
            self._used.get(host, {}).pop(image, None)

    def used_images(self, host: str) -> list[UsedImage]:
        with self._lock:
            return [UsedImage(image, used_ms) for image, used_ms in self._used.get(host, {}).items()]

    def close(self) -> None:
        """Do nothing: there are no connections."""
