"""Retry of a look-up when a storage changes during it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from stagefleet.backoff import jittered
from stagefleet.errors import StorageStateChangedError

__all__ = ["retry_on_changed_state"]

_PAUSES_SECONDS = StorageStateChangedError.retry_pauses_seconds
_TRIES = len(_PAUSES_SECONDS) + 1

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")


def retry_on_changed_state(
    look_up: Callable[[], _T], *, tries: int = _TRIES, sleep: Callable[[float], object] = time.sleep
) -> _T:
    """Repeat a look-up from its beginning while storages change during it.

    Args:
        look_up: The whole look-up, from the list of stages to the fetch: only so does a repeat see another
            state. It is called `tries` times at most, with pauses of 2 s that double up to 10 s, and jitter.
        tries: At least 1.
        sleep: Waits so many seconds.

    Raises:
        StorageStateChangedError: The state changed in the last try, too.
    """
    pauses = itertools.chain(_PAUSES_SECONDS, itertools.repeat(_PAUSES_SECONDS[-1]))
    for left in range(max(1, tries) - 1, -1, -1):
        try:
            return look_up()
        except StorageStateChangedError as error:
            if not left:
                raise
            _LOGGER.warning("%s; looking again, %d tries left", error, left)
        sleep(jittered(next(pauses), share=0.75))
    raise AssertionError("the last try returns or raises")
