"""Copies of stages from one registry to another, beside crane, regsync and skopeo.

Whole commands, each into an empty registry, in turns: what the machine does meanwhile meets all tools alike.
Our workers are up before; their CPU time counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.course import Copied, Course
from scripts.bench.figures import Figures, median_of, spread_of

__all__ = ["measure_copies", "measure_small_copies"]

_ROUND_TRIPS_MS = (0, 20, 100)
_ONE_ROUND = {"skopeo sync"}
"""Tools that work on one stage after the other: where registries are far they get a single round."""
_BOUNDS = {0: "<= 1.1", 20: "<= 0.9", 100: "<= 0.6"}
"""The time of ours by that of crane, with the same parallel limit."""


def measure_copies(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure at each round trip between all tools and the registries."""
    with ExitStack() as stack:
        course = Course(folder, stack)
        course.fill()
        course.timed(course.stagefleet)  # connections and caches are warm
        _show_proxy(figures, course)
        for round_trip_ms in _ROUND_TRIPS_MS:
            with ExitStack() as proxies:
                course.set_latency(proxies, round_trip_ms / 1000)
                what = f"{course.stages} stages, {round_trip_ms} ms"
                _show(figures, _race(course, rounds, round_trip_ms), what, _BOUNDS[round_trip_ms])


def measure_small_copies(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure copies of 2,000 stages that have a layer of 2 KB alone: what a stage costs, not its bytes."""
    with ExitStack() as stack:
        course = Course(folder, stack, stages=2000, shared=(), own=2000)
        course.fill()
        course.timed(course.stagefleet)  # connections and caches are warm
        _show(figures, _race(course, rounds, 0, without=_ONE_ROUND), "2,000 small stages", "<= 0.85")


def _show_proxy(figures: Figures, course: Course) -> None:
    """Show what the proxy lets through without a delay, so that nobody takes its limit for a tool's."""
    if not shutil.which("curl"):
        return
    direct = course.rate_of(course.source.host)
    with ExitStack() as stack:
        course.set_latency(stack, 0.0, always=True)
        proxied = course.rate_of(course.source_host)
    for name, rate in {"the source": direct, "the source through the proxy": proxied}.items():
        figures.add(
            f"{name}, 16 connections", f"{rate.requests:.0f} requests and {rate.megabytes:.0f} MB a second"
        )


def _race(
    course: Course, rounds: int, round_trip_ms: int, without: Collection[str] = ()
) -> dict[str, list[Copied]]:
    tools: dict[str, Callable[[], float]] = {"stagefleet -j 16": course.stagefleet}
    if shutil.which("crane"):
        tools["crane cp -j 16"] = course.crane
    if shutil.which("regsync"):
        tools["regsync"] = course.regsync
    if shutil.which("skopeo"):
        tools["skopeo sync"] = course.skopeo
    copied: dict[str, list[Copied]] = {name: [] for name in tools if name not in without}
    for number in range(rounds):
        for name, rounds_of_it in copied.items():
            if number == 0 or not (round_trip_ms and name in _ONE_ROUND):
                rounds_of_it.append(course.timed(tools[name]))
    return copied


def _show(figures: Figures, copied: dict[str, list[Copied]], what: str, bound: str) -> None:
    for name, rounds in copied.items():
        seconds = spread_of([round_.seconds for round_ in rounds])
        cpu = median_of([round_.cpu_seconds for round_ in rounds])
        requests = median_of([round_.requests for round_ in rounds])
        figures.add(
            f"{what}, {name}",
            f"{seconds}; {cpu:.1f} CPU s; {requests:.2f} requests a stage",
            "<= 8.5 requests" if "stagefleet" in name else "",
        )
    ours = copied.pop("stagefleet -j 16")
    for name, theirs in copied.items():
        figures.add(
            f"{what}, stagefleet / {name}", f"{_ratio(ours, theirs):.2f}", bound if "crane" in name else ""
        )


def _ratio(ours: Sequence[Copied], theirs: Sequence[Copied]) -> float:
    """Return the median of the ratios, round by round."""
    return median_of([mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=False)])
