"""Elected worker that repairs all runs of the fleet by sweeping the ledger."""

from __future__ import annotations

from typing import Protocol

from stagefleet.logs import EventLogger

__all__ = ["ROLE", "Reaper"]

ROLE = "reaper"
_MISSED_SWEEPS = 3
"""Number of missed sweeps after which another worker takes over."""

_log = EventLogger(__name__)


class _Ledger(Protocol):
    def lead(self, role: str, holder: str, *, seconds: float) -> bool: ...

    def sweep(self) -> int: ...


class Reaper:
    """Sweep the ledger while this worker is elected.

    Args:
        ledger: The ledger, for sweeps and the election.
        worker: This worker's name.
        sweep_seconds: Interval of calls of `sweep`.
    """

    def __init__(self, ledger: _Ledger, worker: str, *, sweep_seconds: float) -> None:
        self._ledger = ledger
        self._worker = worker
        self._lease_seconds = sweep_seconds * _MISSED_SWEEPS

    def sweep(self) -> None:
        """Sweep, if this worker is or becomes the elected one."""
        if self._ledger.lead(ROLE, self._worker, seconds=self._lease_seconds):
            mended = self._ledger.sweep()
            if mended:
                _log.info("swept", action="sweep", mended=mended)
