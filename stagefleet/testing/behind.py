"""Items of a run that wait behind others, in memory."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["WaitsBehind"]


class WaitsBehind:
    """Items that wait until another item of their run has ended, by index."""

    def __init__(self) -> None:
        self._others: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._others)

    def put(self, index: int, other: int, ended: Container[int]) -> bool:
        """Let an item wait behind another, unless that has ended or they would wait for each other for ever.

        Returns:
            Whether it waits.
        """
        at: int | None = other
        while at is not None and at != index:
            at = self._others.get(at)
        if at is not None or other in ended:
            return False
        self._others[index] = other
        return True

    def let_go(self, ended: Container[int]) -> list[int]:
        """Take out the items whose other one has ended."""
        freed = [index for index, other in self._others.items() if other in ended]
        for index in freed:
            del self._others[index]
        return freed

    def clear(self) -> None:
        """Take out all."""
        self._others.clear()
