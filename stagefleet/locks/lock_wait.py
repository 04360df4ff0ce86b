"""The wait for a lock, for every lock manager."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial

from stagefleet.backoff import jittered
from stagefleet.errors import LockTimeoutError
from stagefleet.locks.protocol import LockInfo, OnWait
from stagefleet.redis_retry import OUTAGE_SECONDS, RedisRetry

__all__ = ["default_label", "wait_for"]

_LONGEST_NAP_SECONDS = 1.0
_NAP_SHARE = 0.25
"""Interval of repeated requests, as a fraction of the lease: a request not repeated for a lease expires."""


def default_label() -> str:
    """Describe this process by host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def wait_for(
    attempt: Callable[[], int],
    nap: Callable[[float], None],
    look: Callable[[], LockInfo],
    *,
    wait_seconds: float,
    lease_seconds: float,
    on_wait: OnWait | None,
    check: Callable[[], None] | None,
) -> int:
    """Repeat a request until the lock is granted.

    Args:
        attempt: Requests the lock; returns the fencing token, or 0.
        nap: Waits at most so many seconds for a change.
        look: Returns the state of the lock.
        wait_seconds: Longest wait.
        lease_seconds: How long a place in the queue lasts without a repeated request.
        on_wait: Called once, before the first wait.
        check: Called at each turn; its errors end the wait.

    Returns:
        The fencing token.

    Raises:
        LockTimeoutError: The lock was not granted in time.
        RedisUnreachableError: Redis does not answer. A request that waits already outlasts an outage.
    """

    def rest(seconds: float) -> None:
        if check is not None:
            check()
        time.sleep(seconds)

    redis_retry = RedisRetry(min(wait_seconds, OUTAGE_SECONDS), sleep=rest)
    give_up_at = time.monotonic() + wait_seconds
    longest_nap = min(_LONGEST_NAP_SECONDS, lease_seconds * _NAP_SHARE)
    fence = attempt()
    if not fence and wait_seconds > 0 and on_wait is not None:
        on_wait(look())
    while not fence:
        left = give_up_at - time.monotonic()
        if left <= 0:
            raise LockTimeoutError(_refusal(look(), wait_seconds))
        if check is not None:
            check()
        seconds = min(left, jittered(longest_nap))
        redis_retry(partial(nap, seconds))
        fence = redis_retry(attempt)
    return fence


def _refusal(info: LockInfo, wait_seconds: float) -> str:
    holders = ", ".join(holder.label for holder in info.holders) or "those who wait longer"
    return f"the lock {info.name} was not to be had in {wait_seconds:g} s: {holders} has it"
