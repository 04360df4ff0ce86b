"""What a run deletes, and how its items stand: what one deletion has to know of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from stagefleet.runs.model import ItemState

__all__ = ["Asked", "RunItems", "numbered"]

Asked = Callable[[], Iterable[str]]
"""Gives the tags that a run deletes and has not deleted yet; a `RunItems` also tells of their items."""


class RunItems:
    """The tags that a run deletes, and the items that delete them.

    Args:
        items: Gives the items that have not succeeded yet, each with its index in the run.
        tags: Gives the tags that an item deletes.
        standings: Tells how the items of some indexes stand, None for each that has not ended.
        own: The index of the item that is under way.
        also: Tags that go with later runs of the same plan.
    """

    def __init__(
        self,
        items: Callable[[], Iterable[tuple[int, str]]],
        tags: Callable[[str], Iterable[str]],
        standings: Callable[[Sequence[int]], list[ItemState | None]],
        *,
        own: int,
        also: Iterable[str] = (),
    ) -> None:
        self._items = items
        self._tags = tags
        self.standings = standings
        self.own = own
        self._also = also

    def __call__(self) -> Iterator[str]:
        """Give the tags."""
        return (tag for tag, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[str, int | None]]:
        """Give the tags, each with the index of the item that deletes it; None for a later run's."""
        for index, item in self._items():
            for tag in self._tags(item):
                yield tag, index
        for tag in self._also:
            yield tag, None


def numbered(asked: Asked) -> Iterable[tuple[str, int | None]]:
    """Give the tags that are asked for with the indexes of their items, None where nobody knows those."""
    return asked.numbered() if isinstance(asked, RunItems) else ((tag, None) for tag in asked())
