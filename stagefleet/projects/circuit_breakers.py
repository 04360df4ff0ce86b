"""Caches that fail: their errors become warnings, and they are skipped for a while, so that stages go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.errors import (
    CircuitOpenError,
    EngineUnreachableError,
    ItemCancelledError,
    ItemPostponedError,
    LeaseLostError,
    RateLimitedError,
    RedisConfigurationError,
    RedisUnreachableError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.leases import Lease
from stagefleet.names import Repository, StageId
from stagefleet.registry.http.pauses import hurrying

__all__ = [
    "OPEN_SECONDS",
    "OWN_ERRORS",
    "CaughtFailure",
    "CircuitBreakers",
    "StageDeleter",
    "delete_from_caches",
    "errors_as_warnings",
]

# Caches that did not answer or asked for a pause: they are skipped for a while, so that stages go on.

OPEN_SECONDS = 60.0
"""Time for which a cache is skipped after an outage; longer if the cache asks for more."""
_LONGEST_ALONE_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 10.0
"""Longest pause that one request grants a cache: without the cache the work goes on at once."""

_LOGGER = logging.getLogger(__name__)


class CircuitBreakers:
    """Caches that this process skips; thread-safe.

    Args:
        clock: Returns the time in seconds; for tests.
    """

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


# Errors of caches that become warnings.

OWN_ERRORS = (
    EngineUnreachableError,
    ItemCancelledError,
    ItemPostponedError,
    LeaseLostError,
    RedisConfigurationError,
    RedisUnreachableError,
)
"""Errors of our own side: not a storage's fault, and another storage would not help."""


class CaughtFailure:
    """Error inside a `errors_as_warnings` block.

    Attributes:
        error: The error, None without one.
    """

    error: StagefleetError | None = None


@contextmanager
def errors_as_warnings(
    what: str,
    *,
    reraise: tuple[type[StagefleetError], ...] = (),
    quiet: tuple[type[StagefleetError], ...] = (),
) -> Iterator[CaughtFailure]:
    """Turn a storage's error into a warning.

    Args:
        what: The attempted operation, for the warning.
        reraise: Errors that are raised, besides those of our own side.
        quiet: Errors that are expected: a debug record instead of a warning.
    """
    failure = CaughtFailure()
    try:
        yield failure
    except StagefleetError as error:
        if isinstance(error, OWN_ERRORS + reraise):
            raise
        _LOGGER.log(logging.DEBUG if isinstance(error, quiet) else logging.WARNING, "%s: %s", what, error)
        failure.error = error


# Delete a stage from caches.


class StageDeleter(Protocol):
    """Deletion of a stage from one repository."""

    @property
    def circuit_breakers(self) -> CircuitBreakers:
        """The caches that are skipped after an outage."""

    def delete_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease,
    ) -> ItemResult:
        """Delete one stage, and no tag outside of the run."""


def delete_from_caches(
    stages: StageDeleter,
    caches: Sequence[Repository],
    stage_id: StageId,
    *,
    run_id: str,
    to_delete: Callable[[], Iterable[str]],
    lease: Lease,
) -> bool:
    """Delete a stage from each cache; a failure is a warning: a cache may have anything at any time.

    Each cache that keeps the stage is reported, also one that is skipped.

    Args:
        stages: Deletes from one repository.
        caches: The caches.
        stage_id: The stage.
        run_id: The run's id.
        to_delete: Returns the stage ids that the run deletes and has not deleted yet.
        lease: Lease to check in waits and before writes.

    Returns:
        True if a cache had it.
    """
    had_it = False
    for cache in caches:
        with (
            errors_as_warnings(f"cache {cache} keeps stage {stage_id}"),
            stages.circuit_breakers.guarding(cache),
        ):
            item_result = stages.delete_stage(
                cache, stage_id, run_id=run_id, to_delete=to_delete, lease=lease
            )
            had_it |= item_result != NOT_THERE
    return had_it
