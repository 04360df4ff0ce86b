"""States of items, of the ledger in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from stagefleet.runs.models import ItemState
from stagefleet.testing.run_record import RunRecord

__all__ = ["MemoryItems"]


class MemoryItems:
    """The part of `MemoryLedger` with the methods of `SubmitterLedger` and `WorkerLedger` that list items."""

    _records: dict[str, RunRecord]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def _found(self, run_id: str) -> RunRecord:
        raise NotImplementedError

    def leftovers(self, run_id: str) -> Iterator[str]:
        return (item for _, item in self.numbered_leftovers(run_id))

    def numbered_leftovers(self, run_id: str) -> Iterator[tuple[int, str]]:
        with self._step():
            return iter(list(self._found(run_id).leftovers()))

    def item_states(self, run_id: str, indexes: Sequence[int]) -> list[ItemState | None]:
        with self._step():
            record = self._records.get(run_id)
            return [ItemState.SUCCEEDED if record is None else record.standing(index) for index in indexes]
