"""The course of the copies that are measured: stages from one registry to another."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

from scripts.bench.figures import seconds_of
from tests.services import (
    ImageMaker,
    RedisServer,
    RegistryServer,
    TcpProxy,
    Workers,
    clean_environment,
    stage_id_of,
    stagefleet_command,
)

__all__ = ["STAGES", "Copied", "Course", "Rate"]

STAGES = 200
_PARALLEL = 16
_REPOSITORY = "app/stages"
_QUIET = subprocess.DEVNULL


class Copied(NamedTuple):
    """A copy: its time, the CPU time of tool and workers, and the requests a stage of both registries."""

    seconds: float
    cpu_seconds: float
    requests: float


class Rate(NamedTuple):
    """What a server gives, a second."""

    requests: float
    megabytes: float


class Course:
    """Two registries, a fleet, and ways to copy.

    Args:
        folder: Where all of it lives.
        stack: Stops it.
        processes: Worker processes.
        threads: Threads of each.
        stages: How many stages are copied.
        shared: Sizes of the layers that all of them have, in bytes.
        own: Size of the layer that each has alone, in bytes.

    Attributes:
        source_host: Where the source is reached, `host:port`.
        destination_host: Where the destination is.
    """

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        *,
        processes: int = 2,
        threads: int = 8,
        stages: int = STAGES,
        shared: Sequence[int] = (5_000_000,) * 3,
        own: int = 1_000_000,
    ) -> None:
        self.stages = stages
        self._layers = (*shared, own)
        self.source = RegistryServer(folder / "source").start()
        stack.callback(self.source.stop)
        self.destination = RegistryServer(folder / "destination").start()
        stack.callback(self.destination.stop)
        self._folder = folder
        self._redis = RedisServer(folder / "redis").start()
        stack.callback(self._redis.stop)
        self._workers = Workers(
            self._redis.url, folder / "workers", processes=processes, concurrency=threads
        ).start()
        stack.callback(self._workers.stop)
        self.source_host, self.destination_host = self.source.host, self.destination.host

    def fill(self) -> None:
        """Push the stages into the source."""
        draw = random.Random(7)  # noqa: S311 - the same data each time
        *shared_bytes, own_bytes = self._layers
        shared = [draw.randbytes(size) for size in shared_bytes]
        with ImageMaker(self.source) as maker:
            for number in range(self.stages):
                stage_id = stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
                layers = [*shared, draw.randbytes(own_bytes)]
                maker.push_image(_REPOSITORY, stage_id, layers=layers, labels={"number": str(number)})

    def set_latency(self, stack: ExitStack, seconds: float, *, always: bool = False) -> None:
        """Let a round trip to either registry take so long, by proxies that end with the stack.

        Without latency there is no proxy, unless `always`.
        """
        for registry, name in ((self.source, "source_host"), (self.destination, "destination_host")):
            host = registry.host
            if seconds or always:
                host = stack.enter_context(TcpProxy(host, latency_seconds=seconds)).host
            setattr(self, name, host)

    def stagefleet(self, parallel: int = _PARALLEL) -> float:
        """Copy with our command; like the other tools, returns the CPU seconds of the command alone."""
        return self._run(
            *stagefleet_command("copy", *self._repositories(), "-j", str(parallel)),
            STAGEFLEET_REDIS_URL=self._redis.url,
        )

    def crane(self) -> float:
        """Copy with crane."""
        jobs = ("--jobs", str(_PARALLEL))
        return self._run("crane", "cp", "--insecure", "--all-tags", *jobs, *self._repositories())

    def regsync(self) -> float:
        """Copy with regsync."""
        source, destination = self._repositories()
        configuration = {
            "version": 1,
            "creds": [
                {"registry": host, "tls": "disabled", "reqConcurrent": _PARALLEL}
                for host in (self.source_host, self.destination_host)
            ],
            "defaults": {"parallel": _PARALLEL},
            "sync": [{"source": source, "target": destination, "type": "repository"}],
        }
        path = self._folder / "regsync.yml"
        path.write_text(json.dumps(configuration))  # JSON is YAML
        return self._run("regsync", "once", "--config", str(path))

    def skopeo(self) -> float:
        """Copy with skopeo."""
        source, destination = self._repositories()
        into = destination.rpartition("/")[0]
        tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
        return self._run("skopeo", "sync", *tls, "--src", "docker", "--dest", "docker", source, into)

    def timed(self, copy: Callable[[], float]) -> Copied:
        """Copy into an empty registry; the CPU time includes that of our workers.

        Raises:
            RuntimeError: Not all was copied.
        """
        self.destination.renew()
        self.source.forget_requests()
        workers_before, start = self._cpu_seconds_of_workers(), time.perf_counter()
        command_seconds = copy()
        seconds = time.perf_counter() - start
        cpu_seconds = command_seconds + self._cpu_seconds_of_workers() - workers_before
        requests = len(self.source.requests()) + len(self.destination.requests())
        copied = self._count_copied()
        if copied != self.stages:
            raise RuntimeError(f"{copied} stages were copied, not {self.stages}")
        return Copied(seconds, cpu_seconds, requests / self.stages)

    def _count_copied(self) -> int:
        count, url = 0, f"http://{self.destination.host}/v2/{_REPOSITORY}/tags/list?n=1000"
        with self.destination.session() as session:
            while url:
                answer = session.get(url, timeout=30)
                count += len(answer.json().get("tags") or ())
                url = urljoin(url, answer.links.get("next", {}).get("url", "")) if answer.links else ""
        return count

    def rate_of(self, host: str) -> Rate:
        """Measure what curl gets from a host of the source, over as many connections as tools use."""
        count = 4000
        with ImageMaker(self.source) as maker:
            blob = maker.push_blob(_REPOSITORY, random.Random(8).randbytes(50_000_000))  # noqa: S311 - the same data each time
        return Rate(
            count / self._seconds_of_curl(f"http://{host}/v2/?n=[1-{count}]"),
            40 * 50 / self._seconds_of_curl(f"http://{host}/v2/{_REPOSITORY}/blobs/{blob}?n=[1-40]"),
        )

    def _seconds_of_curl(self, url: str) -> float:
        parallel = ("--parallel", "--parallel-max", str(_PARALLEL))
        return seconds_of(lambda: self._run("curl", "--silent", *parallel, "--output", "/dev/null", url))

    def _cpu_seconds_of_workers(self) -> float:
        """Return the CPU time of all worker processes so far (proc(5), fields 14 and 15)."""
        ticks = 0
        for pid in self._workers.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _repositories(self) -> tuple[str, str]:
        return f"{self.source_host}/{_REPOSITORY}", f"{self.destination_host}/{_REPOSITORY}"

    @staticmethod
    def _run(*command: str, **variables: str) -> float:
        """Run a tool; returns its CPU seconds, or raises `RuntimeError` if it fails."""
        environment = clean_environment(HOME="/nonexistent", **variables)
        process = subprocess.Popen(command, env=environment, stdout=_QUIET, stderr=_QUIET)  # noqa: S603 - the tools to compare with, fixed arguments
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}")
        return used.ru_utime + used.ru_stime
