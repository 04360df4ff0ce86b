"""Pauses between requests: as long as hosts ask for, within a bound, and told to whoever follows the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from stagefleet.registry.leash import Leash, waiting
from stagefleet.registry.retry_after import span_text

__all__ = ["HostPauses", "WaitBudget", "hurrying", "pause"]

_NAP_SECONDS = 1.0  # how soon a wait notices that the item was cancelled
_TOLD_SECONDS = 3.0
"""Shorter pauses are over before anybody has read of them."""

_LOGGER = logging.getLogger("stagefleet")


_HURRIED: ContextVar[tuple[str, float]] = ContextVar("_HURRIED", default=("", 0.0))


@contextmanager
def hurrying(host: str, seconds: float) -> Iterator[None]:
    """Let no call that this thread makes to a host inside the block be made to wait for longer."""
    token = _HURRIED.set((host, seconds))
    try:
        yield
    finally:
        _HURRIED.reset(token)


@dataclass(slots=True)
class WaitBudget:
    """How much longer one call may be made to wait, all its attempts together.

    Attributes:
        left_seconds: At first the bound of `of`.
    """

    left_seconds: float

    @classmethod
    def of(cls, host: str, longest_seconds: float) -> Self:
        """The budget for a call to a host, where the settings allow so much."""
        hurried, seconds = _HURRIED.get()
        return cls(min(seconds, longest_seconds) if host == hurried else longest_seconds)

    def allows(self, seconds: float) -> bool:
        """Take some seconds off, if that many are left."""
        if seconds > self.left_seconds:
            return False
        self.left_seconds -= seconds
        return True


class HostPauses:
    """The pauses that hosts asked of one call, which hold for all calls of this process; thread-safe."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def begin(self, host: str, seconds: float, text: str) -> None:
        """Note that a host asked for a pause, and what it answered."""
        now = time.monotonic()
        with self._lock:
            self._ends = {other: end for other, end in self._ends.items() if end[0] > now}
            is_new = host not in self._ends
            self._ends[host] = max(self._ends.get(host, (0.0, "")), (now + seconds, text))
        if is_new and seconds >= _TOLD_SECONDS:
            _LOGGER.warning("%s asks to wait %s (%s)", host, span_text(seconds), text)

    def left(self, host: str) -> tuple[float, str]:
        """The seconds that are left of a host's pause, 0 for none, and what it answered."""
        until, text = self._ends.get(host, (0.0, ""))
        return max(0.0, until - time.monotonic()), text


def pause(
    seconds: float,
    leash: Leash,
    host: str = "",
    text: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait, unless the leash ends it.

    Args:
        seconds: How long.
        leash: Of the item that waits.
        host: For whom.
        text: What it answered.
        sleep: Waits so many seconds; for tests.

    Raises:
        WaitTooLongError: The item has waited for too long already.
        StagefleetError: What ended the wait, as in `Leash.check`.
    """
    if seconds < _TOLD_SECONDS:
        _wait(seconds, leash, sleep)
        return
    with waiting(leash, seconds, host, text):
        _wait(seconds, leash, sleep)


def _wait(seconds: float, leash: Leash, sleep: Callable[[float], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        leash.check()
        sleep(min(left, _NAP_SECONDS))
    leash.check()
