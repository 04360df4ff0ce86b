"""Keep what is wrong with one stage from the work on all others.

One that is damaged, odd or hostile is left out and named. A storage that is out of reach or refuses the login
would meet every other stage the same way: that stops the work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from stagefleet.errors import (
    CertificateError,
    ContentError,
    ForbiddenError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
    UnreachableError,
)
from stagefleet.names import StageId

__all__ = ["Isolation", "OnLeftOut", "left_out", "try_again"]

_T = TypeVar("_T")

OnLeftOut = Callable[[StageId, Exception], None]

_MOST_IN_A_ROW = 100
"""So many stages that a registry fails at, one after another, and the registry itself is taken to be down."""
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.5
_FORBIDDEN = 403


class Isolation:
    """Judge the errors of stages, one at a time and in one thread.

    Args:
        on_left_out: Told of each stage that is left out, and why.
        ping: Asks the storage whether it is there and takes the login; None if there is nobody to be asked.
    """

    def __init__(self, on_left_out: OnLeftOut, *, ping: Callable[[], object] | None = None) -> None:
        self._on_left_out = on_left_out
        self._ping = ping
        self._in_a_row = 0

    def settle(self, stage_id: StageId, result: Callable[[], _T]) -> _T | None:
        """Give a stage's result; None where the stage is left out.

        Raises:
            StagefleetError: The other stages would meet it too.
        """
        try:
            found = result()
        except StagefleetError as error:
            self._judge(error)
            self._on_left_out(stage_id, error)
            return None
        except Exception as error:  # noqa: BLE001 - a bug that one stage brings out hides no other
            self._on_left_out(stage_id, error)
            return None
        self._in_a_row = 0
        return found

    def _judge(self, error: StagefleetError) -> None:
        if error.stops_others and not self._is_of_one_stage(error):
            raise error
        if isinstance(error, UnreachableError | RegistryUnavailableError):
            self._in_a_row += 1
            if self._in_a_row >= _MOST_IN_A_ROW:
                raise error
        else:
            self._in_a_row = 0

    def _is_of_one_stage(self, error: StagefleetError) -> bool:
        """Ask the storage itself: it may break off at a damaged stage, or keep one from everybody."""
        may_be = (
            isinstance(error, RegistryUnreachableError) and not isinstance(error, CertificateError)
        ) or (isinstance(error, ForbiddenError) and error.status == _FORBIDDEN)
        if not may_be or self._ping is None:
            return False
        try:
            self._ping()
        except StagefleetError:
            return False
        return True


def try_again(
    describe: Callable[[StageId], _T], stage_id: StageId, *, sleep: Callable[[float], object] = time.sleep
) -> _T:
    """Describe a stage; what arrives damaged is asked for again, as the next answer may be whole.

    Raises:
        StagefleetError: What `describe` raised last.
    """
    for tries in range(1, _TRIES):
        try:
            return describe(stage_id)
        except ContentError as error:
            if not error.retryable:
                raise
        sleep(_FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1))  # noqa: S311 - jitter
    return describe(stage_id)


def left_out(stage_id: StageId, error: Exception) -> str:
    """Say to a person that a stage is left out, and why."""
    if isinstance(error, StagefleetError):
        return f"{stage_id} is left out: {error}"
    return f"{stage_id} is left out: unexpected {type(error).__name__}: {error} (this is a bug: report it)"
