"""What the number of worker processes, and of their threads, does to copies: how their defaults were chosen.

Each shape gets a run whose limit is its threads, so that all of them work.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from scripts.bench.course import STAGES, Course
from scripts.bench.figures import Figures, median_of

__all__ = ["measure_shapes"]

_SHAPES = ((1, 8), (1, 16), (2, 4), (2, 8), (2, 16), (4, 4), (4, 8))
"""Processes, and threads of each."""


def measure_shapes(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure on loopback, where CPU time is what lacks, and with a round trip of 20 ms."""
    for processes, threads in _SHAPES:
        place = folder / f"{processes}-{threads}"
        with ExitStack() as stack:
            course = Course(place, stack, processes=processes, threads=threads)
            course.fill()
            copy = partial(course.stagefleet, processes * threads)
            course.timed(copy)  # connections and caches are warm
            loopback = median_of([course.timed(copy).seconds for _ in range(rounds)])
            course.set_latency(stack, 0.02)
            far = median_of([course.timed(copy).seconds for _ in range(rounds)])
        figures.add(
            f"{STAGES} stages, {processes} processes x {threads} threads",
            f"{loopback:.2f} s; 20 ms: {far:.2f} s",
        )
