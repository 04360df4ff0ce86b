"""Notices about requests that are repeated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from stagefleet.backoff import Backoff
from stagefleet.errors import RateLimitedError, RegistryError, RegistryUnreachableError
from stagefleet.logs import EventLogger
from stagefleet.settings import HttpSettings

__all__ = ["RetryReporter"]

_TELL_SECONDS = 2.0
"""The length of a wait before it is reported, as for Redis: a restart may be shorter."""
_AGAIN_SECONDS = 60.0

_LOGGER = logging.getLogger("stagefleet")
_log = EventLogger(__name__)


class RetryReporter:
    """Report the retries of calls: each at `info`, and a long wait for a host once a minute as a warning.

    Thread-safe.

    Args:
        http: The limits of retries.
        clock: Returns monotonic seconds.
    """

    def __init__(self, http: HttpSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = Backoff(http.backoff_seconds, http.backoff_limit_seconds)
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def report(
        self,
        error: RegistryError | RegistryUnreachableError,
        host: str,
        *,
        began_at: float,
        pause_seconds: float,
        failures: int,
        limit: int,
    ) -> None:
        """Report that a call is repeated after a pause.

        Args:
            error: The reason.
            host: The registry of the call.
            began_at: The time of the call's first attempt, on the clock.
            pause_seconds: The pause before the next attempt.
            failures: The number of attempts that failed.
            limit: The number of retries that the call may take.
        """
        left = limit - failures + 1
        _log.info(
            "registry_retried",
            host=host,
            pause_seconds=round(pause_seconds, 1),
            attempts_left=left,
            reason=error.cause[1],
        )
        now = self._clock()
        if isinstance(error, RateLimitedError) or now - began_at + pause_seconds < _TELL_SECONDS:
            return  # the pauses that a registry asks for are reported where they begin
        with self._lock:
            if now - self._told_at.get(host, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
                return
            self._told_at = {host: at for host, at in self._told_at.items() if now - at < _AGAIN_SECONDS}
            self._told_at[host] = now
        later = sum(self._backoff.limit_seconds(number) for number in range(failures + 1, limit + 1))
        attempts = "1 more attempt" if left == 1 else f"{left} more attempts"
        _LOGGER.warning("%s: %s, with pauses of %.2g s at most", error, attempts, pause_seconds + later)
