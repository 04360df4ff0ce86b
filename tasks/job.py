"""One attempt at one item, as an operation receives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagefleet.manager import Produced
from stagefleet.registry.leash import Leash
from stagefleet.runs.model import ItemState

__all__ = ["Job", "Operation", "OtherItems"]


@dataclass(frozen=True, slots=True)
class OtherItems:
    """Items of a run, for an attempt that may have to wait for others.

    Attributes:
        own: Index of the current item.
        numbered: Yields the items that have not succeeded yet, each with its index; read from the ledger.
        standings: Returns the states of items by index, None for each that has not ended.
    """

    own: int
    numbered: Callable[[], Iterator[tuple[int, str]]]
    standings: Callable[[Sequence[int]], list[ItemState | None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one item, as an operation receives it.

    Attributes:
        run: The run's id.
        item: The item's id.
        options: The run's options.
        leash: Lease to check often, and before each write.
        asked: Yields the run's items that have not succeeded yet, read from the ledger at each call.
        others: State of the run's items; None without a ledger.
    """

    run: str
    item: str
    options: Mapping[str, Any]
    leash: Leash
    asked: Callable[[], Iterator[str]]
    others: OtherItems | None = None


Operation = Callable[[Job], Produced]
"""Work of a task on one item; it raises its failures."""
