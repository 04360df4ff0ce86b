"""Patience with a Redis that is away: what it refused or did not answer is asked again, up to a bound."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from stagefleet.errors import RedisUnreachableError

__all__ = ["OUTAGE_SECONDS", "Patience", "backoff_seconds"]

OUTAGE_SECONDS = 60.0
"""How long Redis may be out of reach where no setting says it, as while it restarts."""

_T = TypeVar("_T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_TELL_SECONDS = 2.0
"""How long an outage lasts before it is told: a failover may be over by then."""


def backoff_seconds(failures: int) -> float:
    """Choose the pause after so many failures in a row, with jitter: not all may come back at once."""
    doubled = _FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30)
    return min(_LONGEST_PAUSE_SECONDS, doubled) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret


class Patience:
    """Makes a call to Redis again while that is out of reach, as long as an outage may last.

    Args:
        seconds: How long that is, from the first failure of a call on.
        say: Told once an outage lasts, and when it is over.
        stopping: Whether to give up at the next failure.
        sleep: Waits so many seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        seconds: float,
        *,
        say: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._say = say
        self._stopping = stopping
        self._sleep = sleep
        self._clock = clock

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Call, again and again where need be; the call must be one that can be repeated.

        Raises:
            RedisUnreachableError: Redis stayed out of reach.
        """
        began_at, failures, told = self._clock(), 0, False
        while True:
            try:
                answer = call()
            except RedisUnreachableError as error:
                now, failures = self._clock(), failures + 1
                began_at = now if failures == 1 else began_at
                pause = backoff_seconds(failures)
                if now + pause > began_at + self._seconds or self._stopping():
                    raise
                if not told and now - began_at >= _TELL_SECONDS:
                    self._say(f"waiting for Redis, for {self._seconds:g} s at most: {error}")
                    told = True
                self._sleep(pause)
            else:
                if told:
                    self._say("Redis answers again")
                return answer
