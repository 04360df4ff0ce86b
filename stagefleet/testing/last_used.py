"""Last-used records in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from stagefleet.settings import SharedStateSettings
from stagefleet.shared_state.last_used import LastUsed, UsedImage


class MemoryLastUsed(LastUsed):
    """Last-used records of one process.

    Args:
        settings: The limits.
        clock: Returns the time in seconds since 1970; a test may change it.
    """

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
