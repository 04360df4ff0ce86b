"""Items of a run that wait for others, in memory."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["PostponedItems"]


class PostponedItems:
    """Indexes of items that wait until another item of their run has ended."""

    def __init__(self) -> None:
        self._others: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._others)

    def put(self, index: int, other: int, ended: Container[int]) -> bool:
        """Make an item wait for another, unless that has ended or the two would deadlock.

        Returns:
            True if it waits.
        """
        at: int | None = other
        while at is not None and at != index:
            at = self._others.get(at)
        if at is not None or other in ended:
            return False
        self._others[index] = other
        return True

    def release(self, ended: Container[int]) -> list[int]:
        """Remove and return the items whose other item has ended."""
        freed = [index for index, other in self._others.items() if other in ended]
        for index in freed:
            del self._others[index]
        return freed

    def clear(self) -> None:
        """Remove and return all."""
        self._others.clear()
