"""Pauses that hosts ask for: bounded, shared by all calls, and reported to the run's observers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from stagefleet.backoff import Backoff
from stagefleet.errors import RateLimitedError, RegistryError, RegistryUnreachableError
from stagefleet.leases import Lease, waiting
from stagefleet.logs import EventLogger
from stagefleet.registry.http.headers import span_text
from stagefleet.settings import HttpSettings

_NAP_SECONDS = 1.0  # longest time until a wait notices that the item was cancelled
_TOLD_SECONDS = 3.0
"""Shorter pauses are not reported: they are over before anyone reads of them."""

_LOGGER = logging.getLogger("stagefleet")


_HURRIED: ContextVar[tuple[str, float]] = ContextVar("_HURRIED", default=("", 0.0))


@contextmanager
def hurrying(host: str, seconds: float) -> Iterator[None]:
    """Limit the time that a host may make this thread's calls in the block wait."""
    token = _HURRIED.set((host, seconds))
    try:
        yield
    finally:
        _HURRIED.reset(token)


@dataclass(slots=True)
class WaitBudget:
    """Time that a host may still make one call wait, all its attempts together.

    Attributes:
        left_seconds: The remaining time; at first the limit from `of`.
    """

    left_seconds: float

    @classmethod
    def of(cls, host: str, longest_seconds: float) -> Self:
        """Create the budget for a call to a host; `hurrying` may lower the limit of the settings."""
        hurried, seconds = _HURRIED.get()
        return cls(min(seconds, longest_seconds) if host == hurried else longest_seconds)

    def allows(self, seconds: float) -> bool:
        """Spend some seconds; False if fewer are left."""
        if seconds > self.left_seconds:
            return False
        self.left_seconds -= seconds
        return True


class HostPauses:
    """Pauses that hosts asked of one call and that hold for all calls of this process; thread-safe."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def begin(self, host: str, seconds: float, text: str) -> None:
        """Record that a host asked for a pause, and its message."""
        now = time.monotonic()
        with self._lock:
            self._ends = {other: end for other, end in self._ends.items() if end[0] > now}
            is_new = host not in self._ends
            self._ends[host] = max(self._ends.get(host, (0.0, "")), (now + seconds, text))
        if is_new and seconds >= _TOLD_SECONDS:
            _LOGGER.warning("%s asks to wait %s (%s)", host, span_text(seconds), text)

    def left(self, host: str) -> tuple[float, str]:
        """Return the seconds left of a host's pause, 0 for none, and its message."""
        until, text = self._ends.get(host, (0.0, ""))
        return max(0.0, until - time.monotonic()), text


def pause(
    seconds: float,
    lease: Lease,
    host: str = "",
    text: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait, unless the lease ends the wait.

    Args:
        seconds: The duration.
        lease: Lease on the item that waits.
        host: The host that asked for the pause.
        text: Its message.
        sleep: Waits so many seconds; for tests.

    Raises:
        WaitTooLongError: The item has waited too long in this attempt.
        StagefleetError: As `Lease.check` raises.
    """
    if seconds < _TOLD_SECONDS:
        _wait(seconds, lease, sleep)
        return
    with waiting(lease, seconds, host, text):
        _wait(seconds, lease, sleep)


def _wait(seconds: float, lease: Lease, sleep: Callable[[float], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        lease.check()
        sleep(min(left, _NAP_SECONDS))
    lease.check()


# Notices about requests that are repeated.

_TELL_SECONDS = 2.0
"""The length of a wait before it is reported, as for Redis: a restart may be shorter."""
_AGAIN_SECONDS = 60.0

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
