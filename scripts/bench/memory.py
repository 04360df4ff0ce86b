"""The memory of a worker process while it copies one layer of 2 GB."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack
from pathlib import Path

import requests

from scripts.bench.figures import Figures
from stagefleet import Fleet
from tests.services import ImageMaker, RedisServer, RegistryServer, Workers, stage_id_of
from tests.services.images import digest_of

__all__ = ["measure_memory"]

LAYER_BYTES = 2_000_000_000
_PIECE_BYTES = 1_000_000
_REPOSITORY = "app/stages"


def measure_memory(figures: Figures, folder: Path) -> None:
    """Copy it, and read the most that the kernel saw the process hold."""
    with ExitStack() as stack:
        source = RegistryServer(folder / "source").start()
        stack.callback(source.stop)
        destination = RegistryServer(folder / "destination").start()
        stack.callback(destination.stop)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        _push_large(source)
        workers = Workers(redis.url, folder / "workers", processes=1, concurrency=8).start()
        stack.callback(workers.stop)
        with Fleet.connect(redis.url) as fleet:
            run = fleet.for_each_copy_stage(
                f"{source.host}/{_REPOSITORY}", f"{destination.host}/{_REPOSITORY}"
            )
        (pid,) = workers.pids
        status = Path(f"/proc/{pid}/status").read_text()
        most = re.search(r"VmHWM:\s+(\d+) kB", status)
        if run.succeeded != 1 or most is None:
            raise RuntimeError(f"the layer was not copied: {run.summary()}")
    figures.add(
        "memory of a worker that copied a layer of 2 GB", f"{int(most[1]) / 1024:.0f} MiB", "< 150 MB"
    )
    figures.add("  its copy took", f"{run.seconds:.1f} s")


def _push_large(registry: RegistryServer) -> None:
    """Push a layer in pieces, then an image that has it."""
    piece = bytes(range(250)) * (_PIECE_BYTES // 250)
    whole = hashlib.sha256()
    for _ in range(LAYER_BYTES // _PIECE_BYTES):
        whole.update(piece)
    base = f"http://{registry.host}/v2/{_REPOSITORY}"
    location = requests.post(f"{base}/blobs/uploads/", timeout=30).headers["Location"]
    pieces = (piece for _ in range(LAYER_BYTES // _PIECE_BYTES))
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
            f'"size":{LAYER_BYTES},"digest":"{digest}"}}]}}'
        )
        media_type = "application/vnd.docker.distribution.manifest.v2+json"
        maker.push_manifest(_REPOSITORY, stage_id_of("large"), manifest.encode(), media_type)
