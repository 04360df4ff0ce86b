"""One attempt at one item, as an operation sees it."""

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
    """The items of a run, for an attempt at one that may have to wait for others.

    Attributes:
        own: The index of the item that is under way.
        numbered: The items that have not succeeded yet, each with its index; read from the ledger.
        standings: How the items of some indexes stand, None for each that has not ended.
    """

    own: int
    numbered: Callable[[], Iterator[tuple[int, str]]]
    standings: Callable[[Sequence[int]], list[ItemState | None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at one item, as an operation sees it.

    Attributes:
        run: The run's id.
        item: The item's id.
        options: The run's options.
        leash: To be asked often, and before each write.
        asked: The items of the run that have not succeeded yet, read from the ledger at each call.
        others: How the run's items stand; None where no ledger knows.
    """

    run: str
    item: str
    options: Mapping[str, Any]
    leash: Leash
    asked: Callable[[], Iterator[str]]
    others: OtherItems | None = None


Operation = Callable[[Job], Produced]
"""What a task does for an item; it raises what went wrong."""
