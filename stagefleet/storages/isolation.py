"""Work on many stages, each by itself: a failure of one stage does not stop the work on others.

A damaged, unusual or hostile stage is skipped and reported. A storage that is unreachable or rejects the
login fails the same way for every stage, so that error stops the work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

from stagefleet import errors
from stagefleet.backoff import Backoff
from stagefleet.names import StageId
from stagefleet.threads import LeaseBoundThreads

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


# Descriptions of many stages at once, in the order of the request.

_AHEAD = 4
"""Stages requested ahead of the current one, per thread."""
_LOOKED_UP_AT_ONCE = 2000


def describe_all(
    describe: Callable[[StageId], _T],
    stage_ids: Iterable[StageId],
    *,
    parallel: int,
    on_left_out: OnLeftOut,
    find: Callable[[Sequence[StageId]], Sequence[_T | None]] | None = None,
    ping: Callable[[], object] | None = None,
) -> Generator[_T, None, None]:
    """Describe stages in order; skip those that cannot be described.

    Args:
        describe: Describes one stage; called from `parallel` threads.
        stage_ids: The stages; read only a little ahead, so that memory is bounded.
        on_left_out: Called with each skipped stage and the reason.
        find: Returns known descriptions of many stages at once; only the others are described.
        ping: Passed to `Isolation`, as for errors.
    """
    under_way: deque[tuple[StageId, _T | Future[_T]]] = deque()
    pool = LeaseBoundThreads(parallel, "describe")
    isolation = Isolation(on_left_out, ping=ping)
    waiting = _looked_up(stage_ids, find)
    try:
        while True:
            for stage_id, known in islice(waiting, parallel * _AHEAD - len(under_way)):
                asked = pool.submit(try_again, describe, stage_id) if known is None else known
                under_way.append((stage_id, asked))
            if not under_way:
                return
            stage_id, found = under_way.popleft()
            description = isolation.accept(stage_id, found.result) if isinstance(found, Future) else found
            if description is not None:
                yield description
    finally:
        pool.close()


def _looked_up(
    stage_ids: Iterable[StageId], find: Callable[[Sequence[StageId]], Sequence[_T | None]] | None
) -> Iterator[tuple[StageId, _T | None]]:
    """Iterate over stages with their known descriptions, looked up by the thousand."""
    waiting = iter(stage_ids)
    while chunk := list(islice(waiting, _LOOKED_UP_AT_ONCE if find else 1)):
        yield from zip(chunk, find(chunk) if find else [None], strict=True)
