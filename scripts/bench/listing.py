"""A second list of 10,000 described stages: the fleet remembers them all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.figures import Figures, median_of, seconds_of
from scripts.bench.many_tags import REPOSITORY, STAGES, fill
from stagefleet import Fleet, Settings, StageDescription
from stagefleet.shared_state.remembered_stages import RedisDescriptions
from tests.services import RedisServer, RegistryServer, clean_environment, stagefleet_command

__all__ = ["measure_listing"]

_LABELS = {
    "werf": "app",
    "werf-version": "v2.10.0",
    "werf.io/parent-stage-id": "a" * 56 + "-1764000000000",
    "werf-project-repo-commit": "b" * 40,
}
_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")


def measure_listing(figures: Figures, folder: Path, rounds: int) -> None:
    """Measure from Python and from the shell; a command's time is that of its process, with its start."""
    with ExitStack() as stack:
        registry = RegistryServer(folder / "registry").start()
        stack.callback(registry.stop)
        fill(registry)
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        repository = f"{registry.host}/{REPOSITORY}"
        fleet = stack.enter_context(Fleet.connect(redis.url))
        _remember(fleet, redis.url, repository)

        def describe() -> None:
            _check(sum(1 for _ in fleet.describe_stages(repository)))

        def command() -> None:
            _check(_list(redis.url, repository, folder).count(b"\n"))

        for name, work in {"Python": describe, "list -l --json": command}.items():
            seconds, requests = _measure(work, registry, rounds)
            figures.add(f"10,000 described stages listed again, {name}", f"{seconds:.2f} s", "< 2 s")
            figures.add("  requests, all of the tag list", f"{requests:.0f}", "1")


def _measure(work: Callable[[], None], registry: RegistryServer, rounds: int) -> tuple[float, float]:
    """The median of the seconds, and the requests of a round."""
    work()  # connections and bytecode are there
    registry.forget_requests()
    seconds = median_of([seconds_of(work) for _ in range(rounds)])
    foreign = [request.path for request in registry.requests() if "/tags/list" not in request.path]
    if foreign:
        raise RuntimeError(f"more than the tag list was asked for: {foreign[:3]}")
    return seconds, len(registry.requests()) / rounds


def _remember(fleet: Fleet, redis_url: str, repository: str) -> None:
    """Let the fleet have described all stages: asking for each of them would take minutes."""
    stage_ids = list(fleet.stage_ids(repository))
    (one,) = fleet.describe_stages(repository, stage_ids[:1])
    described = [
        StageDescription(
            stage_id=stage_id,
            info=one.info.model_copy(
                update={
                    "name": f"{repository}:{stage_id}",
                    "tag": str(stage_id),
                    "labels": _LABELS | {"werf-stage-content-digest": stage_id.digest},
                    "env": _ENV,
                }
            ),
        )
        for stage_id in stage_ids
    ]
    cache = RedisDescriptions.connect(redis_url, Settings())
    cache.remember(repository, described)
    cache.close()


def _list(redis_url: str, repository: str, folder: Path) -> bytes:
    """Run the command as a person does: bytecode is kept and output buffered, as `-I` reads no PYTHON*."""
    environment = clean_environment(STAGEFLEET_REDIS_URL=redis_url)
    arguments = stagefleet_command("list", repository, "-l", "--json")
    done = subprocess.run(arguments, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own command
    return done.stdout


def _check(count: int) -> None:
    if count != STAGES:
        raise RuntimeError(f"{count} stages are described, not {STAGES}")
