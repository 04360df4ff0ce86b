"""The clock that the age of what was seen is told by."""

from __future__ import annotations

import time

__all__ = ["elapsed_seconds"]


def elapsed_seconds() -> float:
    """Give the seconds since some moment, those included in which the machine or this process stood still.

    `time.monotonic` stops while a virtual machine is suspended (clock_gettime(2), CLOCK_BOOTTIME).
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
