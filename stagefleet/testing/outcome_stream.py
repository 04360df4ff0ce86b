"""The outcomes of a run in memory, in the order of completion."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence

from stagefleet.runs.models import Outcome

__all__ = ["OutcomeStream", "next_number"]

_NUMBERS = itertools.count(1)


def next_number() -> int:
    """Return a number that no call returned before, even if a ledger has forgotten it."""
    return next(_NUMBERS)


class OutcomeStream:
    """Outcomes at unique positions.

    Attributes:
        acknowledged: The number of acknowledged outcomes.
    """

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
        address = bisect_left(self._numbers, int(position))
        stands = address < len(self._numbers) and self._numbers[address] == int(position)
        return address + 1 if stands else None

    def between(self, first: int, last: int) -> Sequence[Outcome]:
        """Return the outcomes between two places."""
        return self._outcomes[first:last]

    @property
    def cursor(self) -> str:
        """The position of the last acknowledged outcome; "" if there is none."""
        return self._outcomes[self.acknowledged - 1].position if self.acknowledged else ""
