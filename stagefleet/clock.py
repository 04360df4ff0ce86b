"""A clock for ages: it includes the time that the machine was suspended."""

from __future__ import annotations

import time

__all__ = ["elapsed_seconds"]


def elapsed_seconds() -> float:
    """Return seconds since an arbitrary moment, including time in which the machine or process was suspended.

    `time.monotonic` stops while a virtual machine is suspended (clock_gettime(2), CLOCK_BOOTTIME).
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
