"""Descriptions of many stages at once, by threads of this process, in the order of the request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

from stagefleet.names import StageId
from stagefleet.storages.isolation import Isolation, OnLeftOut, try_again

Description = TypeVar("Description")

_AHEAD = 4
"""Stages requested ahead of the current one, per thread."""
_LOOKED_UP_AT_ONCE = 2000


def describe_all(
    describe: Callable[[StageId], Description],
    stage_ids: Iterable[StageId],
    *,
    parallel: int,
    on_left_out: OnLeftOut,
    find: Callable[[Sequence[StageId]], Sequence[Description | None]] | None = None,
    ping: Callable[[], object] | None = None,
) -> Generator[Description, None, None]:
    """Describe stages in order; skip those that cannot be described.

    Args:
        describe: Describes one stage; called from `parallel` threads.
        stage_ids: The stages; read only a little ahead, so that memory is bounded.
        on_left_out: Called with each skipped stage and the reason.
        find: Returns known descriptions of many stages at once; only the others are described.
        ping: Passed to `Isolation`, as for errors.
    """
    from stagefleet.registry.members import LeaseBoundThreads  # noqa: PLC0415 - its package imports the registry client

    under_way: deque[tuple[StageId, Description | Future[Description]]] = deque()
    pool = LeaseBoundThreads(parallel, "describe")
    isolation = Isolation(on_left_out, ping=ping)

    def settle() -> Description | None:
        stage_id, found = under_way.popleft()
        return isolation.accept(stage_id, found.result) if isinstance(found, Future) else found

    waiting = _looked_up(stage_ids, find)
    try:
        while True:
            for stage_id, known in islice(waiting, parallel * _AHEAD - len(under_way)):
                asked = pool.submit(try_again, describe, stage_id) if known is None else known
                under_way.append((stage_id, asked))
            if not under_way:
                return
            if (description := settle()) is not None:
                yield description
    finally:
        pool.close()


def _looked_up(
    stage_ids: Iterable[StageId],
    find: Callable[[Sequence[StageId]], Sequence[Description | None]] | None,
) -> Iterator[tuple[StageId, Description | None]]:
    """Iterate over stages with their known descriptions, looked up by the thousand."""
    waiting = iter(stage_ids)
    while chunk := list(islice(waiting, _LOOKED_UP_AT_ONCE if find else 1)):
        yield from zip(chunk, find(chunk) if find else [None], strict=True)
