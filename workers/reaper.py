"""Elected worker that repairs all runs of the fleet by sweeping the ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagefleet.backoff import jittered
from stagefleet.errors import RedisConfigurationError, UnreachableError
from stagefleet.logs import EventLogger
from stagefleet.runs.ledger import Ledger

ROLE = "reaper"
_MISSED_SWEEPS = 3
"""Number of missed sweeps after which another worker takes over."""

_log = EventLogger(__name__)


class Reaper:
    """Sweep the ledger while this worker is elected."""

    def __init__(self, ledger: Ledger, worker: str, *, sweep_seconds: float) -> None:
        self._ledger = ledger
        self._worker = worker
        self._lease_seconds = sweep_seconds * _MISSED_SWEEPS

    def sweep(self) -> None:
        """Sweep, if this worker is or becomes the elected one."""
        if self._ledger.heartbeats.lead(ROLE, self._worker, seconds=self._lease_seconds):
            mended = self._ledger.sweep()
            if mended:
                _log.info("swept", action="sweep", mended=mended)


# Thread that calls a function periodically, and survives its errors.

_JOIN_SECONDS = 10.0


class PeriodicThread:
    """Call an action at once, and then periodically; log its errors, of an outage the first and the end.

    The pause between two calls is up to a tenth shorter, so that processes do not run in step.
    """

    def __init__(self, name: str, action: Callable[[], object], *, seconds: float) -> None:
        self._name = name
        self._action = action
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._in_outage = False

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for a call under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        self.call_once()
        while not self._stopped.wait(jittered(self._seconds, share=0.9)):
            self.call_once()

    def call_once(self) -> None:
        """Call the action once."""
        try:
            self._action()
        except (UnreachableError, RedisConfigurationError) as error:
            if not self._in_outage:
                _log.warning("out_of_reach", action=self._name, error=str(error))
            self._in_outage = True
        except Exception as error:  # noqa: BLE001 - the next call may succeed, and only this thread calls
            _log.error("unexpected_error", action=self._name, exc_info=error)
        else:
            if self._in_outage:
                _log.info("in_reach_again", action=self._name)
            self._in_outage = False
