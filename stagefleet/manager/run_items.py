"""Tags and items of a run's other deletions, as one deletion has to know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from stagefleet.runs.models import ItemState

__all__ = ["RunItems", "TagsToDelete", "numbered"]

TagsToDelete = Callable[[], Iterable[str]]
"""Returns the tags that a run deletes and has not deleted yet; a `RunItems` also knows their items."""


class RunItems:
    """The tags that a run deletes, and the items that delete them.

    Args:
        items: Yields the items that have not succeeded yet, each with its index in the run.
        tags: Returns the tags that an item deletes.
        item_states: Returns the states of items by index, None for each that has not ended.
        own: Index of the current item.
        also: Tags that later runs of the same plan delete.
    """

    def __init__(
        self,
        items: Callable[[], Iterable[tuple[int, str]]],
        tags: Callable[[str], Iterable[str]],
        item_states: Callable[[Sequence[int]], list[ItemState | None]],
        *,
        own: int,
        also: Iterable[str] = (),
    ) -> None:
        self._items = items
        self._tags = tags
        self.item_states = item_states
        self.own = own
        self._also = also

    def __call__(self) -> Iterator[str]:
        """Yield the tags."""
        return (tag for tag, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[str, int | None]]:
        """Yield the tags, each with the index of the item that deletes it; None for a later run's."""
        for index, item in self._items():
            for tag in self._tags(item):
                yield tag, index
        for tag in self._also:
            yield tag, None


def numbered(to_delete: TagsToDelete) -> Iterable[tuple[str, int | None]]:
    """Yield requested tags with the indexes of their items, None if those are unknown."""
    return to_delete.numbered() if isinstance(to_delete, RunItems) else ((tag, None) for tag in to_delete())
