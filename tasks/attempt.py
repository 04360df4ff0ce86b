"""One attempt at one item, as an operation receives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagefleet.manager import ItemResult
from stagefleet.registry.lease import Lease
from stagefleet.runs.models import ItemState

__all__ = ["Attempt", "ItemFunction", "OtherItems"]


@dataclass(frozen=True, slots=True)
class OtherItems:
    """Items of a run, for an attempt that may have to wait for others.

    Attributes:
        own: Index of the current item.
        numbered: Yields the items that have not succeeded yet, each with its index; read from the ledger.
        item_states: Returns the states of items by index, None for each that has not ended.
    """

    own: int
    numbered: Callable[[], Iterator[tuple[int, str]]]
    item_states: Callable[[Sequence[int]], list[ItemState | None]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one item, as an operation receives it.

    Attributes:
        run_id: The run's id.
        item: The item's id.
        options: The run's options.
        lease: Lease to check often, and before each write.
        to_delete: Yields the run's items that have not succeeded yet, read from the ledger at each call.
        others: State of the run's items; None without a ledger.
        number: 1 for the first attempt at the item.
    """

    run_id: str
    item: str
    options: Mapping[str, Any]
    lease: Lease
    to_delete: Callable[[], Iterator[str]]
    others: OtherItems | None = None
    number: int = 1


ItemFunction = Callable[[Attempt], ItemResult]
"""Work of a task on one item; it raises its failures."""
