"""A second copy with nothing to do: 10,000 stages that are there already."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from scripts.bench.figures import Figures, median_of, seconds_of
from stagefleet import Fleet
from tests.services import ImageMaker, RedisServer, RegistryServer, stage_id_of

__all__ = ["measure_again"]

STAGES = 10_000
_REPOSITORY = "app/stages"


def measure_again(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure with tags written into the registries' folders: pushing them would take minutes."""
    with ExitStack() as stack:
        registries = [RegistryServer(folder / name).start() for name in ("source", "destination")]
        for registry in registries:
            stack.callback(registry.stop)
            _fill(registry)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        source, destination = (f"{registry.host}/{_REPOSITORY}" for registry in registries)
        with Fleet.connect(redis.url) as fleet:

            def copy() -> None:
                run = fleet.for_each_copy_stage(source, destination)
                if run.skipped != STAGES:
                    raise RuntimeError(f"there was something to do: {run.summary()}")

            copy()
            for registry in registries:
                registry.forget_requests()
            seconds = median_of([seconds_of(copy) for _ in range(rounds)])
            requests = sum(len(registry.requests()) for registry in registries)
    figures.add("10,000 stages that are there already", f"{seconds:.2f} s", "< 2 s")
    figures.add("  requests, whole run", f"{requests / rounds:.0f}", "no request a stage")


def _fill(registry: RegistryServer) -> None:
    with ImageMaker(registry) as maker:
        digest = maker.push_image(_REPOSITORY, "one", layers=[b"layer"]).digest
    tags = next(registry.folder.glob(f"**/repositories/{_REPOSITORY}/_manifests/tags"))
    link = (tags / "one" / "current" / "link").read_text()
    if digest not in link:
        raise RuntimeError("this registry keeps its tags in another way")
    for number in range(STAGES):
        tag = tags / stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
        (tag / "current").mkdir(parents=True)
        (tag / "current" / "link").write_text(link)
