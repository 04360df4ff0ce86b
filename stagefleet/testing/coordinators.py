"""Coordinators of runs that nobody watches, as a ledger in memory sees them."""

from __future__ import annotations

from enum import Enum

__all__ = ["Coordinator"]


class Coordinator(Enum):
    """Where the coordinator of a run is that the fleet calls back for."""

    ABSENT = 1
    CALLED = 2
    PRESENT = 3
    PAUSED = 4
