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

from stagefleet.registry.lease import Lease, waiting
from stagefleet.registry.retry_after import span_text

__all__ = ["HostPauses", "WaitBudget", "hurrying", "pause"]

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
