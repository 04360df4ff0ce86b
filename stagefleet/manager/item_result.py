"""Result of an operation on one item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stagefleet.runs.models import NOT_THERE_RESULT

__all__ = ["NOT_THERE", "ItemResult"]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Result of one item that did not fail.

    Attributes:
        result: The description or metadata that it produced.
        bytes: Content sent to the destination.
        skipped: True if there was nothing to do.
    """

    result: dict[str, Any] | None = None
    bytes: int = 0
    skipped: bool = False


NOT_THERE = ItemResult(dict(NOT_THERE_RESULT), skipped=True)
"""Result of a deletion that found nothing to delete."""
