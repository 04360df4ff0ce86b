"""Pauses between attempts: they grow up to a limit, with jitter so that clients do not retry together."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from the first to the longest.

    Attributes:
        first_seconds: Longest pause after the first failure.
        longest_seconds: Limit of all pauses.
    """

    first_seconds: float
    longest_seconds: float

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after a number of consecutive failures, from 1: between half and the whole."""
        return jittered(self.limit_seconds(failures))

    def limit_seconds(self, failures: int) -> float:
        """Return the longest pause after a number of consecutive failures, from 1."""
        doubled = self.first_seconds * 2.0 ** min(max(failures, 1) - 1, _MOST_DOUBLINGS)
        return min(self.longest_seconds, doubled)


REDIS_BACKOFF = Backoff(0.1, 2.0)
"""Pauses of what waits for a Redis that is out of reach."""


def jittered(seconds: float, *, share: float = 0.5) -> float:
    """Return a random part of a duration.

    Args:
        seconds: The longest result.
        share: The shortest result, as a fraction of the longest.
    """
    return seconds * random.uniform(share, 1)  # noqa: S311 - jitter, no secret
