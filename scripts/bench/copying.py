"""Copies of 200 stages from one registry to another, beside crane and skopeo.

Rounds are interleaved, so that what the machine does meanwhile meets all tools alike; each goes into an empty
registry. Workers are up before; a tool's time is that of its process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.course import Course
from scripts.bench.figures import Figures, median_of

__all__ = ["measure_copies"]


def measure_copies(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure on loopback, then with a round trip of 20 ms between the workers and the registries."""
    with ExitStack() as stack:
        course = Course(folder, stack)
        course.fill()
        course.timed(course.stagefleet)  # connections and caches are warm for all
        _loopback(figures, course, rounds)
        course.add_latency(stack)
        _with_latency(figures, course, rounds)


def _loopback(figures: Figures, course: Course, rounds: int) -> None:
    tools: dict[str, Callable[[], None]] = {"stagefleet -j 16": course.stagefleet}
    if shutil.which("crane"):
        tools["crane cp -j 16"] = lambda: course.crane("--jobs", "16")
    if shutil.which("skopeo"):
        tools["skopeo sync"] = course.skopeo
    seconds = _race(course, tools, rounds, figures)
    _ratios(figures, seconds, "loopback", {"crane cp -j 16": "<= 1.1"})


def _with_latency(figures: Figures, course: Course, rounds: int) -> None:
    tools: dict[str, Callable[[], None]] = {
        "stagefleet -j 16": course.stagefleet,
        "stagefleet -j 32": lambda: course.stagefleet(32),
    }
    if shutil.which("crane"):
        tools["crane cp -j 16"] = lambda: course.crane("--jobs", "16")
        tools["crane cp"] = course.crane
    seconds = _race(course, tools, rounds, None)
    _ratios(figures, seconds, "20 ms round trip", {"crane cp -j 16": "<= 1.15", "crane cp": "<= 0.5"})


def _race(
    course: Course, tools: dict[str, Callable[[], None]], rounds: int, figures: Figures | None
) -> dict[str, Sequence[float]]:
    taken: dict[str, list[float]] = {name: [] for name in tools}
    requests: dict[str, float] = {}
    for _ in range(rounds):
        for name, copy in tools.items():
            seconds, requests[name] = course.timed(copy)
            taken[name].append(seconds)
    if figures is not None:
        for name, count in requests.items():
            figures.add(
                f"HTTP requests a stage, {name}", f"{count:.2f}", "<= 8.5" if "stagefleet" in name else ""
            )
    return dict(taken)


def _ratios(
    figures: Figures, seconds: dict[str, Sequence[float]], where: str, bounds: dict[str, str]
) -> None:
    for name, values in seconds.items():
        figures.add(f"200 stages, {where}, {name}", f"{median_of(values):.2f} s")
    for ours in (name for name in seconds if "stagefleet" in name):
        for name, values in seconds.items():
            if "stagefleet" not in name:
                ratio = median_of([mine / theirs for mine, theirs in zip(seconds[ours], values, strict=True)])
                figures.add(f"{ours} / {name}, {where}", f"{ratio:.2f}", bounds.get(name, ""))
