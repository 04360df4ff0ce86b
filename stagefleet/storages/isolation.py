"""Isolation of stages: a failure of one stage does not stop the work on others.

A damaged, unusual or hostile stage is skipped and reported. A storage that is unreachable or rejects the
login fails the same way for every stage, so that error stops the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stagefleet import errors
from stagefleet.backoff import Backoff
from stagefleet.names import StageId

_T = TypeVar("_T")

OnLeftOut = Callable[[StageId, Exception], None]

_MOST_IN_A_ROW = 100
"""After this many consecutive stages with registry errors, the registry itself counts as failing."""
_TRIES = 3
_BACKOFF = Backoff(0.5, 60.0)
_FORBIDDEN = 403


class Isolation:
    """Classify errors of stages: skip one stage, or stop. Takes one error at a time; not thread-safe.

    `on_left_out` is called with each skipped stage and the reason; `ping` checks that the storage answers
    and accepts the login, None if there is nothing to check.
    """

    def __init__(self, on_left_out: OnLeftOut, *, ping: Callable[[], object] | None = None) -> None:
        self._on_left_out = on_left_out
        self._ping = ping
        self._in_a_row = 0

    def accept(self, stage_id: StageId, result: Callable[[], _T]) -> _T | None:
        """Return the result for a stage, None to skip it; raise an error that would affect others too."""
        try:
            found = result()
        except errors.StagefleetError as error:
            self._judge(error)
            self._on_left_out(stage_id, error)
            return None
        except Exception as error:  # noqa: BLE001 - a bug that one stage triggers does not hide the others
            self._on_left_out(stage_id, error)
            return None
        self._in_a_row = 0
        return found

    def _judge(self, error: errors.StagefleetError) -> None:
        if error.stops_others and not self._is_of_one_stage(error):
            raise error
        if isinstance(error, errors.UnreachableError | errors.RegistryUnavailableError):
            self._in_a_row += 1
            if self._in_a_row >= _MOST_IN_A_ROW:
                raise error
        else:
            self._in_a_row = 0

    def _is_of_one_stage(self, error: errors.StagefleetError) -> bool:
        """Ping the storage to decide: a healthy storage may still fail at one damaged stage, or deny it."""
        may_be = (
            isinstance(error, errors.RegistryUnreachableError)
            and not isinstance(error, errors.CertificateError)
        ) or (isinstance(error, errors.ForbiddenError) and error.status == _FORBIDDEN)
        if not may_be or self._ping is None:
            return False
        try:
            self._ping()
        except errors.StagefleetError:
            return False
        return True


def try_again(
    describe: Callable[[StageId], _T], stage_id: StageId, *, sleep: Callable[[float], object] = time.sleep
) -> _T:
    """Describe a stage; retry damaged content, since the next answer may be intact."""
    for tries in range(1, _TRIES):
        try:
            return describe(stage_id)
        except errors.ContentError as error:
            if not error.retryable:
                raise
        sleep(_BACKOFF.pause_seconds(tries))
    return describe(stage_id)


def left_out(stage_id: StageId, error: Exception) -> str:
    """Format the message that a stage is skipped, with the reason."""
    if isinstance(error, errors.StagefleetError):
        return f"{stage_id} is left out: {error}"
    return f"{stage_id} is left out: unexpected {type(error).__name__}: {error} (this is a bug: report it)"
