"""The course of the copies that are measured: 200 stages from one registry to another."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.figures import seconds_of
from stagefleet import Fleet
from tests.services import (
    ImageMaker,
    RedisServer,
    RegistryServer,
    TcpProxy,
    Workers,
    clean_environment,
    stage_id_of,
)

__all__ = ["STAGES", "Course"]

STAGES = 200
_PARALLEL = 16
_REPOSITORY = "app/stages"
_ROUND_TRIP_SECONDS = 0.02
_QUIET = subprocess.DEVNULL


class Course:
    """Two registries, a fleet, and ways to copy.

    Args:
        folder: Where all of it lives.
        stack: Stops it.
        processes: Worker processes.
        threads: Threads of each.

    Attributes:
        source_host: Where the source is reached, `host:port`.
        destination_host: Where the destination is.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, processes: int = 2, threads: int = 8) -> None:
        self.source = RegistryServer(folder / "source").start()
        stack.callback(self.source.stop)
        self.destination = RegistryServer(folder / "destination").start()
        stack.callback(self.destination.stop)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        workers = Workers(redis.url, folder / "workers", processes=processes, concurrency=threads).start()
        stack.callback(workers.stop)
        self.fleet = stack.enter_context(Fleet.connect(redis.url))
        self.source_host, self.destination_host = self.source.host, self.destination.host

    def fill(self) -> None:
        """Push the stages into the source."""
        draw = random.Random(7)  # noqa: S311 - the same data each time
        shared = [draw.randbytes(5_000_000) for _ in range(3)]
        with ImageMaker(self.source) as maker:
            for number in range(STAGES):
                stage_id = stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
                layers = [*shared, draw.randbytes(1_000_000)]
                maker.push_image(_REPOSITORY, stage_id, layers=layers, labels={"number": str(number)})

    def add_latency(self, stack: ExitStack) -> None:
        """Let a round trip to either registry take 20 ms from now on."""
        for registry, name in ((self.source, "source_host"), (self.destination, "destination_host")):
            proxy = stack.enter_context(TcpProxy(registry.host, latency_seconds=_ROUND_TRIP_SECONDS))
            setattr(self, name, proxy.host)

    def stagefleet(self, parallel: int = _PARALLEL) -> None:
        """Copy with our fleet.

        Raises:
            RuntimeError: Not all was copied.
        """
        source, destination = self._repositories()
        run = self.fleet.for_each_copy_stage(source, destination, parallel=parallel)
        if run.succeeded != STAGES:
            raise RuntimeError(f"not all was copied: {run.summary()}")

    def crane(self, *options: str) -> None:
        """Copy with crane."""
        source, destination = self._repositories()
        self._run("crane", "cp", "--insecure", "--all-tags", *options, source, destination)

    def skopeo(self) -> None:
        """Copy with skopeo."""
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
        environment = clean_environment(HOME="/nonexistent")
        subprocess.run(command, check=True, env=environment, stdout=_QUIET, stderr=_QUIET)  # noqa: S603 - the tools to compare with, fixed arguments
