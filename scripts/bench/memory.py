"""The memory of a worker that copies one large layer, and of a report of a million items."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import requests

from scripts.bench.figures import Figures, median_of, seconds_of, spread_of
from scripts.bench.pages import fill
from stagefleet import Fleet
from tests.services import (
    ImageMaker,
    RedisServer,
    RegistryServer,
    Workers,
    clean_environment,
    stage_id_of,
)
from tests.services.images import digest_of

__all__ = ["measure_large_layer", "measure_memory", "measure_reports", "peak_megabytes", "report_memory"]

_PIECE_BYTES = 1_000_000
_REPOSITORY = "app/stages"
_ITEMS = 998_000  # and the one that `fill` leaves open: a run has a million at most
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_REPORT = """
import sys
from pathlib import Path
from stagefleet.cli import main
try:
    main()
finally:
    sys.stderr.write(Path("/proc/self/status").read_text())
"""


def measure_memory(figures: Figures, folder: Path) -> None:
    """Copy a layer of 2 GB, and read the most that the kernel saw the process hold."""
    _measure_layer(figures, folder, 2)


def measure_large_layer(figures: Figures, folder: Path, rounds: int) -> None:
    """Copy a layer of 10 GB, in turns with curl, which sends it from registry to registry, too."""
    _measure_layer(figures, folder, 10, rounds=rounds, beside_curl=True)


def _measure_layer(
    figures: Figures, folder: Path, gigabytes: int, *, rounds: int = 1, beside_curl: bool = False
) -> None:
    with ExitStack() as stack:
        source = RegistryServer(folder / "source").start()
        stack.callback(source.stop)
        destination = RegistryServer(folder / "destination").start()
        stack.callback(destination.stop)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        digest = _push_large(source, gigabytes * 10**9)
        workers = Workers(redis.url, folder / "workers", processes=1, concurrency=8).start()
        stack.callback(workers.stop)
        ours, curls = [], []
        for _ in range(rounds):
            if beside_curl:
                os.sync()  # what one wrote must not be written to the disk in the other's time
                curls.append(seconds_of(lambda: _pipe_with_curl(source, destination, digest)))
                destination.renew()
            os.sync()
            ours.append(_copy_layer(redis.url, source, destination))
            destination.renew()
        (pid,) = workers.pids
        peak = peak_megabytes(Path(f"/proc/{pid}/status").read_text())
        what = f"a layer of {gigabytes} GB"
        figures.add(f"memory of a worker that copied {what}", f"{peak:.0f} MiB", "< 100 MB")
        figures.add("  its copy took", spread_of(ours))
        if curls:
            figures.add("  curl | curl took", spread_of(curls))
            ratio = median_of(curls) / median_of(ours)
            figures.add(f"{what}: rate by that of curl | curl", f"{ratio:.2f}", ">= 0.9")


def _copy_layer(redis_url: str, source: RegistryServer, destination: RegistryServer) -> float:
    """Copy the one stage, and return the seconds of its run."""
    with Fleet.connect(redis_url) as fleet:
        run = fleet.for_each_copy_stage(f"{source.host}/{_REPOSITORY}", f"{destination.host}/{_REPOSITORY}")
    if run.succeeded != 1 or run.seconds is None:
        raise RuntimeError(f"the layer was not copied: {run.summary()}")
    return run.seconds


def peak_megabytes(status: str) -> float:
    """Return the most memory that a process has held, in MiB, of its `/proc/PID/status`."""
    peak = _PEAK.search(status)
    if peak is None:
        raise RuntimeError(f"the kernel does not tell what the process took: {status}")
    return int(peak[1]) / 1024


def _pipe_with_curl(source: RegistryServer, destination: RegistryServer, digest: str) -> None:
    """Send a blob from registry to registry as a shell would."""
    base = f"http://{destination.host}/v2/{_REPOSITORY}/blobs/uploads/"
    location = requests.post(base, timeout=30).headers["Location"]
    fetch = ["curl", "-sSf", f"http://{source.host}/v2/{_REPOSITORY}/blobs/{digest}"]
    send = ["curl", "-sSf", "-o", "/dev/null", "-X", "PUT", "-T", "-"]
    send += ["-H", "Content-Type: application/octet-stream", f"{location}&digest={digest}"]
    with subprocess.Popen(fetch, stdout=subprocess.PIPE) as fetching:  # noqa: S603 - the tool to compare with
        subprocess.run(send, stdin=fetching.stdout, check=True)  # noqa: S603 - as above


def measure_reports(figures: Figures, folder: Path) -> None:
    """Report on a run of a million items in all three forms, and read the most that the kernel saw."""
    redis = RedisServer(folder / "redis").start()
    try:
        run_id = fill(redis.url, runs=1, items=_ITEMS)
        megabytes, seconds = report_memory(redis.url, run_id, folder)
    finally:
        redis.stop()
    figures.add(
        f"memory of a report of {_ITEMS + 1:,} items: page, XML, JSON", f"{megabytes:.0f} MiB", "< 150 MB"
    )
    figures.add("  it took", f"{seconds:.0f} s")


def report_memory(redis_url: str, run_id: str, folder: Path) -> tuple[float, float]:
    """Report in all forms by a command, and return its most memory in MiB, and its seconds."""
    files = ["--html", folder / "report.html", "--junit", folder / "report.xml", "--json"]
    begins_at = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-I", "-c", _REPORT, "report", run_id, *map(str, files)],
        env=clean_environment(STAGEFLEET_REDIS_URL=redis_url),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return peak_megabytes(done.stderr), time.monotonic() - begins_at


def _push_large(registry: RegistryServer, size: int) -> str:
    """Push a layer in pieces, then an image that has it; returns the digest of the layer."""
    piece = bytes(range(250)) * (_PIECE_BYTES // 250)
    whole = hashlib.sha256()
    for _ in range(size // _PIECE_BYTES):
        whole.update(piece)
    base = f"http://{registry.host}/v2/{_REPOSITORY}"
    location = requests.post(f"{base}/blobs/uploads/", timeout=30).headers["Location"]
    pieces = (piece for _ in range(size // _PIECE_BYTES))
    location = requests.patch(location, data=pieces, timeout=300).headers["Location"]
    digest = f"sha256:{whole.hexdigest()}"
    requests.put(f"{location}&digest={digest}", timeout=60).raise_for_status()
    with ImageMaker(registry) as maker:
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        maker.push_blob(_REPOSITORY, config)
        manifest = (
            '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":'
            '{"mediaType":"application/vnd.docker.container.image.v1+json",'
            f'"size":{len(config)},"digest":"{digest_of(config)}"}},"layers":['
            '{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip",'
            f'"size":{size},"digest":"{digest}"}}]}}'
        )
        media_type = "application/vnd.docker.distribution.manifest.v2+json"
        maker.push_manifest(_REPOSITORY, stage_id_of("large"), manifest.encode(), media_type)
    return digest
