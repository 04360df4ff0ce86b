"""Figures and the table that shows them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

__all__ = ["Figures", "median_of", "seconds_of", "spread_of"]


@dataclass(slots=True)
class Figures:
    """What was measured, row by row."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, value: str, bound: str = "") -> None:
        """Add a row, and say it at once.

        Args:
            what: What was measured.
            value: What came out, with its unit.
            bound: What it is meant to stay within, "" if it is there to compare.
        """
        self.rows.append((what, value, bound))
        Console(stderr=True, highlight=False).print(f"  {what}: {value}")

    def show(self) -> None:
        """Print the table."""
        table = Table("measured", "figure", "bound", title="Stagefleet, medians")
        for row in self.rows:
            table.add_row(*row)
        Console(width=130).print(table)


def seconds_of(work: Callable[[], object]) -> float:
    """How long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_of(values: Sequence[float]) -> float:
    """The median: machines are noisy, and their noise has one side."""
    return statistics.median(values)


def spread_of(seconds: Sequence[float]) -> str:
    """Show the median of some times, and the least and the most of them."""
    return f"{median_of(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
