"""Measure: `python -m scripts.bench [--rounds N] [PART...]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from scripts.bench.again import measure_again
from scripts.bench.bookkeeping import measure_bookkeeping
from scripts.bench.copying import measure_copies, measure_small_copies
from scripts.bench.fairness import measure_fairness
from scripts.bench.figures import Figures
from scripts.bench.listing import measure_listing
from scripts.bench.memory import measure_large_layer, measure_memory, measure_reports
from scripts.bench.pages import measure_pages
from scripts.bench.plans import measure_plans
from scripts.bench.shapes import measure_shapes
from tests.services import make_workspace

PARTS: dict[str, Callable[[Figures, Path, int], None]] = {
    "copy": measure_copies,
    "small": measure_small_copies,
    "again": measure_again,
    "list": measure_listing,
    "bookkeeping": measure_bookkeeping,
    "fairness": measure_fairness,
    "memory": lambda figures, folder, _: measure_memory(figures, folder),
    "plans": measure_plans,
    "pages": measure_pages,
    "reports": lambda figures, folder, _: measure_reports(figures, folder),
    "large": measure_large_layer,
    "shapes": measure_shapes,
}
_ON_DEMAND = {"large", "shapes"}  # minutes, or 30 GB of disk, for figures that rarely change


def main() -> None:
    """Measure what is named, and print a table."""
    parser = argparse.ArgumentParser(prog="scripts.bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all but the last two"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often, for the medians; 5 by default")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    figures = Figures()
    for name in options.parts or [name for name in PARTS if name not in _ON_DEMAND]:
        with make_workspace() as folder:
            PARTS[name](figures, folder, options.rounds)
    figures.show()


if __name__ == "__main__":
    main()
