"""Items of a run in memory: those that wait for others, their outcomes, and coordinators."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import Enum

from stagefleet.runs.models import Outcome

# The outcomes of a run in memory, in the order of completion.

_NUMBERS = itertools.count(1)


def next_number() -> int:
    """Return a number that no call returned before, even if a ledger has forgotten it."""
    return next(_NUMBERS)


class OutcomeStream:
    """Outcomes at unique positions, of which the first `acknowledged` are acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._numbers: list[int] = []
        self._outcomes: list[Outcome] = []

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> Outcome:
        """Append an outcome, and return it with its position."""
        number = next_number()
        placed = outcome.model_copy(update={"position": str(number)})
        self._numbers.append(number)
        self._outcomes.append(placed)
        return placed

    def index_of(self, position: str) -> int | None:
        """Count the outcomes up to a position; None if no outcome has it."""
        if not position:
            return 0
        before = bisect_left(self._numbers, int(position))
        stands = before < len(self._numbers) and self._numbers[before] == int(position)
        return before + 1 if stands else None

    def between(self, first: int, last: int) -> Sequence[Outcome]:
        """Return the outcomes from the index `first` to that before `last`."""
        return self._outcomes[first:last]

    @property
    def cursor(self) -> str:
        """The position of the last acknowledged outcome; "" if there is none."""
        return self._outcomes[self.acknowledged - 1].position if self.acknowledged else ""


# Items of a run that wait for others, in memory.


class PostponedItems:
    """Indexes of items that wait until another item of their run has ended."""

    def __init__(self) -> None:
        self._others: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._others)

    def put(self, index: int, other: int, ended: Container[int]) -> bool:
        """Make an item wait for another; False if that has ended or the two would deadlock."""
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
        """Remove all."""
        self._others.clear()


# States of the coordinators of detached runs, in memory.


class Coordinator(Enum):
    """The state of a run's coordinator."""

    ABSENT = 1
    CALLED = 2
    PRESENT = 3
    PAUSED = 4


# Claims of items, in memory.


@dataclass(slots=True)
class MemoryClaim:
    """A claim in the ledger; times are on the ledger's clock."""

    fence: int
    attempt: int
    until: float
    nonce: str
    published_at: float
