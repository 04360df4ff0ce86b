"""States of the coordinators of detached runs, in memory."""

from __future__ import annotations

from enum import Enum

__all__ = ["Coordinator"]


class Coordinator(Enum):
    """The state of a run's coordinator."""

    ABSENT = 1
    CALLED = 2
    PRESENT = 3
    PAUSED = 4
