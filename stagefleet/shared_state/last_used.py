"""Last-used times of the images on each host, for clean-up.

Lost times do no harm: an image without one counts as of unknown use.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from stagefleet.redis_client import map_redis_errors, milliseconds
from stagefleet.redis_keys import LAST_USED
from stagefleet.settings import SharedStateSettings
from stagefleet.shared_state.best_effort import BestEffortStore


@dataclass(frozen=True, slots=True)
class UsedImage:
    """An image in a host's engine, and the time of its last use, in milliseconds since 1970."""

    image: str
    last_used_ms: int


class LastUsed(ABC):
    """Last-used times by host; bounded, the longest unused are dropped first. Thread-safe."""

    @abstractmethod
    def note(self, host: str, image: str) -> None:
        """Record that an image is used now; ignores an unreachable store."""

    @abstractmethod
    def forget(self, host: str, image: str) -> None:
        """Record that an image was removed from a host; ignores an unreachable store."""

    @abstractmethod
    def used_images(self, host: str) -> list[UsedImage]:
        """List the images of a host, the longest unused first; raises if the store is unreachable."""


class RedisLastUsed(BestEffortStore, LastUsed):
    """The records of a fleet: a sorted set per host, by the server's clock."""

    _what, _keys = "last_used", LAST_USED

    def note(self, host: str, image: str) -> None:
        settings = self._settings
        with self._calls():
            lifetime_ms = milliseconds(settings.lifetime_seconds)
            self.scripts.call("note_used", host, image, settings.used_images, lifetime_ms)

    def forget(self, host: str, image: str) -> None:
        with self._calls():
            self._redis.zrem(self._key(host), image)

    def used_images(self, host: str) -> list[UsedImage]:
        with map_redis_errors(self._redis):
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
