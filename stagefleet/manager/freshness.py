"""How old a look may be when a request leaves that it allows, and how it is had again for the next one."""

from __future__ import annotations

from collections.abc import Callable

from stagefleet.clock import elapsed_seconds

__all__ = ["FRESH_SECONDS", "Check", "checked", "looking"]

FRESH_SECONDS = 10.0
"""How old a look may be when a DELETE leaves that it allows."""

Check = Callable[[], float]
"""Raises what speaks against a deletion; tells since when its word holds, on `elapsed_seconds`."""


def checked(check: Callable[[], object]) -> Check:
    """Check now, and make a `Check` that does so again each time that it is asked but the first."""
    began = elapsed_seconds()
    check()
    return _again(check, began)


def looking(look: Callable[[], object], seen_at: float) -> Callable[[], float]:
    """Make what `RegistryClient.delete_manifest` asks, out of a look that was just had.

    Args:
        look: Looks again; raises what forbids the deletion.
        seen_at: When it was looked, on `elapsed_seconds`.
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
