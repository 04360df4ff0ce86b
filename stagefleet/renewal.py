"""Renewals of leases: a loop that no error ends, and that comes back soon after an outage."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagefleet.logs import EventLogger
from stagefleet.patience import backoff_seconds

__all__ = ["Renewals", "keep_renewing"]

_log = EventLogger(__name__)


class Renewals:
    """Renewals that are tried: when the next one is due, and what is logged of those that fail.

    Args:
        what: What is renewed, for the log: `leases`, `locks`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0

    def attempt(self, renew: Callable[[], object]) -> float | None:
        """Renew once.

        Whatever Redis answers now, it may renew the next time; and a lease is to be renewed at once after an
        outage, before a sweep takes it.

        Returns:
            None if that went well, else how many seconds to wait before the next attempt.
        """
        try:
            renew()
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end the renewals of all others
            self._failures += 1
            log = _log.warning if self._failures == 1 else _log.debug
            log(f"{self._what}_not_renewed", action="renew", error=str(error))
            return backoff_seconds(self._failures)
        if self._failures:
            _log.info(f"{self._what}_renewed_again", action="renew", failures=self._failures)
        self._failures = 0
        return None


def keep_renewing(renew: Callable[[], object], ended: threading.Event, *, what: str, seconds: float) -> None:
    """Renew every so many seconds, and soon after a renewal that failed, until the end.

    Args:
        renew: Renews.
        ended: Set at the end.
        what: As for `Renewals`.
        seconds: Between two renewals.
    """
    renewals, pause = Renewals(what), seconds
    while not ended.wait(pause):
        pause = min(seconds, renewals.attempt(renew) or seconds)
