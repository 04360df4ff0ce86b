"""One attempt at one item, as an operation receives it, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from stagefleet.errors import UsageError
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.operations.base import Operation
from stagefleet.runs.models import NOT_THERE_RESULT, ItemState

SomeOperation = TypeVar("SomeOperation", bound=Operation)

# Result of an operation on one item.


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Result of one item that did not fail: the description or metadata that it produced.

    It has sent `bytes` to the destination, or is `skipped` if there was nothing to do.
    """

    result: dict[str, Any] | None = None
    bytes: int = 0
    skipped: bool = False


NOT_THERE = ItemResult(dict(NOT_THERE_RESULT), skipped=True)
"""Result of a deletion that found nothing to delete."""


# One attempt at one item, as an operation receives it.

TagsToDelete = Callable[[], Iterable[str]]
"""Returns the tags that a run deletes and has not deleted yet; called rarely."""


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
    """One attempt at one item, as an operation receives it; `number` is 1 for the first.

    Attributes:
        operation: The operation that the run's options are, parsed once a run; None if not in the catalog.
        lease: Lease to check often, and before each write.
        to_delete: Returns the tags that the run deletes and has not deleted yet, read from the ledger at
            each call.
        others: State of the run's items; None without a ledger.
    """

    run_id: str
    item: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    lease: Lease = NO_LEASE
    to_delete: TagsToDelete = tuple
    others: OtherItems | None = None
    number: int = 1
    operation: Operation | None = None

    def parsed(self, kind: type[SomeOperation]) -> SomeOperation:
        """Return the operation of the attempt; `UsageError` if this release cannot read the run's options."""
        if isinstance(self.operation, kind):
            return self.operation
        try:
            return kind.model_validate(self.options, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            option = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"the option {option} of run {self.run_id} cannot be read: {first['msg']}"
            ) from None

    def under(self, lease: Lease) -> Attempt:
        """Return the attempt with another lease, such as that of a lock."""
        return replace(self, lease=lease)


ItemFunction = Callable[[Attempt], ItemResult]
"""Work of a task on one item; it raises its failures."""
