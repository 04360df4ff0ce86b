"""Copies of 200 stages from one registry to another, beside crane and skopeo.

Rounds are interleaved, so that what the machine does meanwhile meets all tools alike; each goes into an empty
registry. Workers are up before; a tool's time is that of its process.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.figures import Figures, median_of, seconds_of
from stagefleet import Fleet
from tests.services import ImageMaker, RedisServer, RegistryServer, TcpProxy, Workers, stage_id_of

__all__ = ["measure_copies"]

STAGES = 200
_PARALLEL = 16
_REPOSITORY = "app/stages"
_ROUND_TRIP_SECONDS = 0.02
_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class _Course:
    """Two registries, a fleet with two worker processes, and ways to copy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.source = RegistryServer(folder / "source").start()
        stack.callback(self.source.stop)
        self.destination = RegistryServer(folder / "destination").start()
        stack.callback(self.destination.stop)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        workers = Workers(redis.url, folder / "workers", processes=2, concurrency=8).start()
        stack.callback(workers.stop)
        self.fleet = stack.enter_context(Fleet.connect(redis.url))
        self.source_host, self.destination_host = self.source.host, self.destination.host

    def fill(self) -> None:
        draw = random.Random(7)  # noqa: S311 - the same data each time
        shared = [draw.randbytes(5_000_000) for _ in range(3)]
        with ImageMaker(self.source) as maker:
            for number in range(STAGES):
                stage_id = stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
                layers = [*shared, draw.randbytes(1_000_000)]
                maker.push_image(_REPOSITORY, stage_id, layers=layers, labels={"number": str(number)})

    def stagefleet(self, parallel: int = _PARALLEL) -> None:
        source, destination = self._repositories()
        run = self.fleet.for_each_copy_stage(source, destination, parallel=parallel)
        if run.succeeded != STAGES:
            raise RuntimeError(f"not all was copied: {run.summary()}")

    def crane(self, *options: str) -> None:
        source, destination = self._repositories()
        self._run("crane", "cp", "--insecure", "--all-tags", *options, source, destination)

    def skopeo(self) -> None:
        source, destination = self._repositories()
        into = destination.rpartition("/")[0]
        tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
        self._run("skopeo", "sync", *tls, "--src", "docker", "--dest", "docker", source, into)

    def timed(self, copy: Callable[[], None]) -> tuple[float, float]:
        """Copy into an empty registry; gives the seconds, and the requests a stage that both have seen."""
        self.destination.renew()
        self.source.forget_requests()
        seconds = seconds_of(copy)
        requests = len(self.source.requests()) + len(self.destination.requests())
        return seconds, requests / STAGES

    def _repositories(self) -> tuple[str, str]:
        return f"{self.source_host}/{_REPOSITORY}", f"{self.destination_host}/{_REPOSITORY}"

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, env={**os.environ, "HOME": "/nonexistent"}, **_QUIET)  # type: ignore[call-overload]  # noqa: S603 - the tools to compare with, fixed arguments


def measure_copies(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure on loopback, then with a round trip of 20 ms between the workers and the registries."""
    with ExitStack() as stack:
        course = _Course(folder, stack)
        course.fill()
        course.timed(course.stagefleet)  # connections and caches are warm for all
        _loopback(figures, course, rounds)
        for registry, name in ((course.source, "source_host"), (course.destination, "destination_host")):
            proxy = stack.enter_context(TcpProxy(registry.host, latency_seconds=_ROUND_TRIP_SECONDS))
            setattr(course, name, proxy.host)
        _with_latency(figures, course, rounds)


def _loopback(figures: Figures, course: _Course, rounds: int) -> None:
    tools: dict[str, Callable[[], None]] = {"stagefleet -j 16": course.stagefleet}
    if shutil.which("crane"):
        tools["crane cp -j 16"] = lambda: course.crane("--jobs", "16")
    if shutil.which("skopeo"):
        tools["skopeo sync"] = course.skopeo
    seconds = _race(course, tools, rounds, figures)
    _ratios(figures, seconds, "loopback", {"crane cp -j 16": "<= 1.1"})


def _with_latency(figures: Figures, course: _Course, rounds: int) -> None:
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
    course: _Course, tools: dict[str, Callable[[], None]], rounds: int, figures: Figures | None
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
