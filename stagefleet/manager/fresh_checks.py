"""Age limit of the checks that allow a deletion, and their repetition before each request."""

from __future__ import annotations

from collections.abc import Callable

from stagefleet.clock import elapsed_seconds

__all__ = ["FRESH_SECONDS", "Check", "checked", "recheck"]

FRESH_SECONDS = 10.0
"""Oldest check that allows a DELETE to leave."""

Check = Callable[[], float]
"""Raises to prevent a deletion; returns since when its result is valid, on `elapsed_seconds`."""


def checked(check: Callable[[], object]) -> Check:
    """Check now, and return a `Check` that reuses this result once and then checks again."""
    began = elapsed_seconds()
    check()
    return _again(check, began)


def recheck(look: Callable[[], object], seen_at: float) -> Callable[[], float]:
    """Create the `look` of `RegistryClient.delete_manifest` from a check that was just made.

    Args:
        look: Checks again; raises to prevent the deletion.
        seen_at: Time of the first check, on `elapsed_seconds`.
    """
    again = _again(look, seen_at)
    return lambda: again() + FRESH_SECONDS


def _again(check: Callable[[], object], since: float) -> Check:
    known: list[float] = [since]

    def again() -> float:
        if known:
            return known.pop()
        began = elapsed_seconds()
        check()
        return began

    return again
