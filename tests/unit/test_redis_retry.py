"""Waits for a Redis that is away."""

from __future__ import annotations

import threading
import time

import pytest

from stagefleet.backoff import REDIS_BACKOFF
from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.leases import RenewedLease, renewed
from stagefleet.redis_client import RedisRetry


class Outage:
    """A Redis that is away for some seconds, on a clock that only sleeping moves."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.now = 100.0
        self.until = self.now + seconds
        self.error = error or RedisUnreachableError("Redis refuses for now (MISCONF disk full)")
        self.pauses: list[float] = []
        self.said: list[str] = []
        self.calls = 0

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def call(self) -> str:
        self.calls += 1
        if self.now < self.until:
            raise self.error
        return "answer"

    def redis_retry(self, seconds: float = 60, **options) -> RedisRetry:
        return RedisRetry(seconds, say=self.said.append, sleep=self.sleep, clock=lambda: self.now, **options)


def test_an_outage_is_sat_out():
    """R8: what Redis refuses for now is asked again until it answers."""
    outage = Outage(30)
    assert "answer" == outage.redis_retry()(outage.call)


def test_the_pauses_grow_with_jitter_up_to_a_bound():
    """R8: an outage is waited out with back-off and jitter: not all come back in step."""
    outage = Outage(30)
    outage.redis_retry()(outage.call)
    assert all(0.05 <= pause <= 2 for pause in outage.pauses)
    assert outage.pauses[0] <= 0.1
    assert max(outage.pauses) > 1
    assert 1 < len({REDIS_BACKOFF.pause_seconds(3) for _ in range(20)})


def test_an_outage_without_end_is_given_up():
    """R8: the wait has an end; then the error says what Redis answered."""
    outage = Outage(1000)
    with pytest.raises(RedisUnreachableError, match="MISCONF"):
        outage.redis_retry(60)(outage.call)
    assert outage.now <= 160


def test_each_outage_has_the_whole_time():
    """R8: the wait counts from the first failure of a call, not from the call before."""
    outage = Outage(50)
    redis_retry = outage.redis_retry(60)
    redis_retry(outage.call)
    outage.until = outage.now + 50
    assert "answer" == redis_retry(outage.call)


def test_what_is_waited_for_is_said_once_and_its_end():
    """W34: who waits says for what, with Redis's own reason, and when it goes on."""
    outage = Outage(30)
    outage.redis_retry(60)(outage.call)
    waiting, over = outage.said
    assert "waiting for Redis, for 60 s at most: Redis refuses for now (MISCONF disk full)" == waiting
    assert "Redis answers again" == over


def test_a_short_outage_is_not_told():
    """W34: a fail-over that takes a moment is no news."""
    outage = Outage(1)
    outage.redis_retry()(outage.call)
    assert [] == outage.said


def test_what_does_not_pass_is_not_waited_for():
    """R8: a wrong configuration ends the wait at once."""
    outage = Outage(30, RedisConfigurationError("refuses the login"))
    with pytest.raises(RedisConfigurationError):
        outage.redis_retry()(outage.call)
    assert 1 == outage.calls


def test_who_has_to_stop_does_not_wait():
    """R8: a worker that has to stop waits for no Redis."""
    outage = Outage(30)
    with pytest.raises(RedisUnreachableError):
        outage.redis_retry(stopping=lambda: True)(outage.call)
    assert 1 == outage.calls


def test_renewals_end_with_nothing_but_their_end():
    """R8: no error ends renewals, and one that failed is tried again soon."""
    ended, errors = threading.Event(), iter([RedisUnreachableError("away"), ZeroDivisionError("a bug")])

    def renew() -> bool:
        error = next(errors, None)
        if error is not None:
            raise error
        ended.set()
        return True

    lease = RenewedLease(0.003, time.monotonic())
    with renewed("leases", lease, renew):
        assert ended.wait(20)
    assert not lease.is_lost
