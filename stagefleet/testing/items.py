"""The side of the ledger in memory that tells how the items of a run stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from stagefleet.runs.model import ItemState
from stagefleet.testing.record import RunRecord

__all__ = ["MemoryItems"]


class MemoryItems:
    """A part of `MemoryLedger`; keeps the promises of `Submitter` and `Workbench` for what it has of them."""

    _records: dict[str, RunRecord]

    def _step(self) -> AbstractContextManager[float]:
        raise NotImplementedError

    def _found(self, run: str) -> RunRecord:
        raise NotImplementedError

    def leftovers(self, run: str) -> Iterator[str]:
        """As `Submitter.leftovers`."""
        return (item for _, item in self.numbered_leftovers(run))

    def numbered_leftovers(self, run: str) -> Iterator[tuple[int, str]]:
        """As `Workbench.numbered_leftovers`."""
        with self._step():
            return iter(list(self._found(run).leftovers()))

    def standings(self, run: str, indexes: Sequence[int]) -> list[ItemState | None]:
        """As `Workbench.standings`."""
        with self._step():
            record = self._records.get(run)
            return [ItemState.SUCCEEDED if record is None else record.standing(index) for index in indexes]
