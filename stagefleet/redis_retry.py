"""Retries of calls to a Redis that is out of reach, up to a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stagefleet.backoff import Backoff
from stagefleet.errors import RedisUnreachableError

OUTAGE_SECONDS = 60.0
"""How long to retry where no setting applies; long enough for a restart."""

_T = TypeVar("_T")

_BACKOFF = Backoff(0.1, 2.0)
_TELL_SECONDS = 2.0
"""The length of an outage before it is reported: a failover may be shorter."""


def backoff_seconds(failures: int) -> float:
    """Return the pause after consecutive failures, with jitter so that clients do not retry together."""
    return _BACKOFF.pause_seconds(failures)


class RedisRetry:
    """Retry calls to Redis while it is out of reach, up to a time limit.

    Args:
        seconds: The limit, from the first failure of a call on.
        say: Called when an outage lasts, and when it is over.
        stopping: Returns True to give up at the next failure.
        sleep: Waits a number of seconds.
        clock: Returns monotonic seconds.
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
        """Call a function, with retries; the call must be safe to repeat.

        Raises:
            RedisUnreachableError: Redis was out of reach for the whole time.
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
