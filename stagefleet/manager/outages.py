"""Caches that did not answer: each is left alone for a while, so that not every stage waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stagefleet.errors import (
    CacheLeftAloneError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.names import Repository

__all__ = ["LEFT_ALONE_SECONDS", "CacheOutages"]

LEFT_ALONE_SECONDS = 60.0
"""How long a cache that did not answer is not asked again."""

_LOGGER = logging.getLogger(__name__)


class CacheOutages:
    """The caches that this process leaves alone; thread-safe.

    Args:
        clock: Tells the time in seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[Repository, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, cache: Repository) -> Iterator[None]:
        """Use a cache, unless it did not answer a short while ago; each use of a cache goes through here.

        Raises:
            CacheLeftAloneError: It did not answer, just now or a short while ago.
        """
        with self._lock:
            left_seconds = self._ends.get(cache, 0.0) - self._clock()
        if left_seconds > 0:
            raise CacheLeftAloneError(
                f"{cache} did not answer, and is left alone for another {left_seconds:.0f} s"
            )
        try:
            yield
        except (RegistryUnreachableError, RegistryUnavailableError) as error:
            if _host_of(error) != cache.host:
                raise  # what a copy into the cache is made from is out of reach
            self._begin(cache, error)
            raise CacheLeftAloneError(f"{cache} is out of reach: {error}") from error

    def _begin(self, cache: Repository, error: StagefleetError) -> None:
        with self._lock:
            now = self._clock()
            self._ends = {other: end for other, end in self._ends.items() if end > now}
            is_known = cache in self._ends  # to another thread, which asked at the same time
            self._ends.setdefault(cache, now + LEFT_ALONE_SECONDS)
        if not is_known:
            _LOGGER.warning(
                "cache %s is out of reach, and left alone for %.0f s: %s", cache, LEFT_ALONE_SECONDS, error
            )


def _host_of(error: RegistryUnreachableError | RegistryUnavailableError) -> str:
    if isinstance(error, RegistryUnreachableError):
        return error.host
    return error.repository.partition("/")[0]
