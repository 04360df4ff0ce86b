"""A second copy with nothing to do: 10,000 stages that are there already."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from scripts.bench.figures import Figures, median_of, seconds_of
from scripts.bench.many_tags import REPOSITORY, STAGES, fill
from stagefleet import Fleet
from tests.services import RedisServer, RegistryServer

__all__ = ["measure_again"]


def measure_again(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure with tags written into the registries' folders: pushing them would take minutes."""
    with ExitStack() as stack:
        registries = [RegistryServer(folder / name).start() for name in ("source", "destination")]
        for registry in registries:
            stack.callback(registry.stop)
            fill(registry)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        source, destination = (f"{registry.host}/{REPOSITORY}" for registry in registries)
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
