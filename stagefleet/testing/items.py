"""States of items, of the ledger in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from stagefleet.runs.model import ItemState
from stagefleet.testing.record import RunRecord

__all__ = ["MemoryItems"]


class MemoryItems:
    """The part of `MemoryLedger` with the methods of `Submitter` and `Workbench` that list items."""

    _records: dict[str, RunRecord]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def _found(self, run: str) -> RunRecord:
        raise NotImplementedError

    def leftovers(self, run: str) -> Iterator[str]:
        return (item for _, item in self.numbered_leftovers(run))

    def numbered_leftovers(self, run: str) -> Iterator[tuple[int, str]]:
        with self._step():
            return iter(list(self._found(run).leftovers()))

    def standings(self, run: str, indexes: Sequence[int]) -> list[ItemState | None]:
        with self._step():
            record = self._records.get(run)
            return [ItemState.SUCCEEDED if record is None else record.standing(index) for index in indexes]
