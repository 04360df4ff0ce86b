"""The renewal loop for leases: errors do not end it, and it retries soon after an outage."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagefleet.logs import EventLogger
from stagefleet.redis_retry import backoff_seconds

__all__ = ["Renewals", "keep_renewing"]

_log = EventLogger(__name__)


class Renewals:
    """Renew, and log failures and the end of an outage.

    Args:
        what: The thing renewed, for the log: `leases`, `locks`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0

    def attempt(self, renew: Callable[[], object]) -> float | None:
        """Renew once.

        Any error may be gone at the next attempt. After an outage the lease must be renewed at once, before a
        sweep takes it.

        Returns:
            None on success, else the seconds to wait before the next attempt.
        """
        try:
            renew()
        except Exception as error:  # noqa: BLE001 - a bug with one answer must not end the renewals of all others
            self._failures += 1
            log = _log.warning if self._failures == 1 else _log.debug
            log(f"{self._what}_not_renewed", action="renew", error=str(error))
            return backoff_seconds(self._failures)
        if self._failures:
            _log.info(f"{self._what}_renewed_again", action="renew", failures=self._failures)
        self._failures = 0
        return None


def keep_renewing(renew: Callable[[], object], ended: threading.Event, *, what: str, seconds: float) -> None:
    """Renew at an interval, and soon after a failed renewal, until the end.

    Args:
        renew: Renews once.
        ended: Set to end the loop.
        what: The thing renewed, for the log.
        seconds: The interval.
    """
    renewals, pause = Renewals(what), seconds
    while not ended.wait(pause):
        pause = min(seconds, renewals.attempt(renew) or seconds)
