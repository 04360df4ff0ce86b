"""Caches that did not answer or asked for a pause: they are skipped for a while, so that stages go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stagefleet.errors import (
    CircuitOpenError,
    RateLimitedError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.names import Repository
from stagefleet.registry.http.waits import hurrying

OPEN_SECONDS = 60.0
"""Time for which a cache is skipped after an outage; longer if the cache asks for more."""
_LONGEST_ALONE_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 10.0
"""Longest pause that one request grants a cache: without the cache the work goes on at once."""

_LOGGER = logging.getLogger(__name__)


class CircuitBreakers:
    """Caches that this process skips; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[Repository, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def guarding(self, cache: Repository) -> Iterator[None]:
        """Guard a use of a cache, which may be skipped; each use of a cache goes through this method.

        Raises:
            CircuitOpenError: It did not answer, now or a short while ago.
        """
        with self._lock:
            left_seconds = self._ends.get(cache, 0.0) - self._clock()
        if left_seconds > 0:
            raise CircuitOpenError(
                f"{cache} did not answer, and is left alone for another {left_seconds:.0f} s"
            )
        try:
            with hurrying(cache.host, _LONGEST_WAIT_SECONDS):
                yield
        except (RegistryUnreachableError, RegistryUnavailableError, RateLimitedError) as error:
            if error.host != cache.host:
                raise  # the source of a copy into the cache is unreachable
            self._begin(cache, error, getattr(error, "retry_after_seconds", None) or 0.0)
            raise CircuitOpenError(f"{cache} is out of reach: {error}") from error

    def _begin(self, cache: Repository, error: StagefleetError, asked_seconds: float) -> None:
        seconds = min(max(OPEN_SECONDS, asked_seconds), _LONGEST_ALONE_SECONDS)
        with self._lock:
            now = self._clock()
            self._ends = {other: end for other, end in self._ends.items() if end > now}
            is_known = cache in self._ends  # to another thread, which asked at the same time
            self._ends.setdefault(cache, now + seconds)
        if not is_known:
            _LOGGER.warning("cache %s is out of reach, and left alone for %.0f s: %s", cache, seconds, error)
