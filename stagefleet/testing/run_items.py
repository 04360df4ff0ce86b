"""Items of a run in memory: those that wait for others, their outcomes, and coordinators."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import Enum

from stagefleet.runs.models import Outcome

next_number = itertools.count(1).__next__
"""Returns a number that no call returned before, even if a ledger has forgotten it."""


class OutcomeStream:
    """Outcomes by completion, at unique positions, of which the first `acknowledged` are acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._outcomes: list[Outcome] = []

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> Outcome:
        """Append an outcome, and return it with its position."""
        placed = outcome.model_copy(update={"position": str(next_number())})
        self._outcomes.append(placed)
        return placed

    def index_of(self, position: str) -> int | None:
        """Count the outcomes up to a position; None if no outcome has it."""
        if not position:
            return 0
        before = bisect_left(self._outcomes, int(position), key=lambda outcome: int(outcome.position))
        stands = before < len(self) and self._outcomes[before].position == position
        return before + 1 if stands else None

    def between(self, first: int, last: int) -> Sequence[Outcome]:
        """Return the outcomes from the index `first` to that before `last`."""
        return self._outcomes[first:last]

    @property
    def cursor(self) -> str:
        """The position of the last acknowledged outcome; "" if there is none."""
        return self._outcomes[self.acknowledged - 1].position if self.acknowledged else ""


class PostponedItems(dict[int, int]):
    """Indexes of items, each with that of another item of their run that has to end before."""

    def put(self, index: int, other: int, ended: Container[int]) -> bool:
        """Make an item wait for another; False if that has ended or the two would deadlock."""
        at: int | None = other
        while at is not None and at != index:
            at = self.get(at)
        if at is not None or other in ended:
            return False
        self[index] = other
        return True

    def release(self, ended: Container[int]) -> list[int]:
        """Remove and return the items whose other item has ended."""
        freed = [index for index, other in self.items() if other in ended]
        for index in freed:
            del self[index]
        return freed


class Coordinator(Enum):
    """The state of a detached run's coordinator."""

    ABSENT = 1
    CALLED = 2
    PRESENT = 3
    PAUSED = 4


@dataclass(slots=True)
class MemoryClaim:
    """A claim in the ledger; times are on the ledger's clock."""

    fence: int
    attempt: int
    until: float
    nonce: str
    published_at: float
