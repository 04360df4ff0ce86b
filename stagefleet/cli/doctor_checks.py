"""The checks of `stagefleet doctor`, one per part, with advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from stagefleet.cli.check_results import CheckResult, State, failed
from stagefleet.cli.redis_checks import check_redis_server
from stagefleet.errors import StagefleetError, UsageError
from stagefleet.fleet.fleet import Fleet
from stagefleet.names import Repository
from stagefleet.runs.messages import QUEUES, live_hosts, queue_of
from stagefleet.runs.models import WorkerInfo
from stagefleet.runs.versions import own_version
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import Settings
from stagefleet.settings_sources import settings_file

__all__ = ["run_checks"]

_NO_WORKER_CODE = 4
_FETCH = queue_of("fetch_stage")


def run_checks(
    load: Callable[[], Settings],
    repositories: list[Repository],
    queue: str | None = None,
    *,
    sources: Collection[Repository] = (),
) -> Iterator[CheckResult]:
    """Check every part, in the order of their dependencies.

    Args:
        load: Reads the settings.
        repositories: The repositories whose registries to try.
        queue: The one queue that must have workers; all if None.
        sources: The repositories that must exist; others may be new.
    """
    try:
        settings = load()
    except StagefleetError as error:
        yield failed("settings", error)
        return
    file = settings_file()
    source = f"{file} and the environment" if file.is_file() else f"the environment (there is no {file})"
    yield CheckResult("settings", State.OK, f"read from {source}")
    yield from check_redis_server(settings)
    if settings.redis_url is not None:
        yield from _check_workers(settings, queue)
    yield _check_docker_config()
    yield from _check_registries(settings, repositories, sources)


def _check_workers(settings: Settings, needed: str | None = None) -> Iterator[CheckResult]:
    with Fleet.connect(settings=settings) as fleet:
        try:
            workers = fleet.workers()
        except StagefleetError as error:
            yield failed("workers", error)
            return
    yield from _check_versions(workers)
    workers = [worker for worker in workers if worker.version.is_compatible]
    for queue in dict.fromkeys(QUEUES.values() if needed is None else [needed]):
        slots = [worker.slots for worker in workers if queue in worker.queues]
        check = f"workers of {queue}"
        if slots:
            yield CheckResult(check, State.OK, f"{len(slots)} processes, {sum(slots)} items at once")
        elif queue == _FETCH and needed is None:  # a fleet without engines is valid
            yield CheckResult(
                check, State.WARNING, "none listens", "run stagefleet worker beside a Docker Engine"
            )
        else:
            yield CheckResult(check, State.FAILED, "none listens", "run stagefleet worker", _NO_WORKER_CODE)
    if hosts := live_hosts(workers):
        yield CheckResult("hosts", State.OK, f"stages can be fetched to {', '.join(hosts)}")


def _check_versions(workers: Sequence[WorkerInfo]) -> Iterator[CheckResult]:
    """Compare the versions of the workers with this one."""
    own = own_version()
    counts = Counter(worker.version for worker in workers)
    for version, count in sorted(counts.items(), key=lambda entry: str(entry[0])):
        processes = f"{count} processes run {version}"
        if version == own:
            yield CheckResult("version of workers", State.OK, f"{processes}, as this command does")
        elif version.is_compatible:
            yield CheckResult(
                "version of workers",
                State.WARNING,
                f"{processes}, this command {own}",
                "update workers first, then clients (docs/upgrading.md)",
            )
        else:
            doubt = "they cannot" if version.schema else "nothing says that they can"
            yield CheckResult(
                "version of workers",
                State.FAILED,
                f"{processes}, and this command {own}: {doubt} read what each other writes",
                "run both at one version (docs/upgrading.md)",
                UsageError.exit_code,
            )


def _check_docker_config() -> CheckResult:
    file = docker_config_file()
    if file.is_file():
        return CheckResult("logins", State.OK, f"read from {file}")
    return CheckResult("logins", State.OK, f"there is no {file}: registries are asked without a login")


def _check_registries(
    settings: Settings, repositories: list[Repository], sources: Collection[Repository]
) -> Iterator[CheckResult]:
    # Starts nothing, only requests to registries. A new repository is reported below.
    with Fleet.embedded(settings=settings, on_notice=lambda _: None) as fleet:
        for repository in repositories:
            try:
                stage = next(fleet.stage_ids(repository, missing_ok=repository not in sources), None)
            except StagefleetError as error:
                yield failed(str(repository), error)
            else:
                stages = "there are no stages yet" if stage is None else "there are stages"
                yield CheckResult(str(repository), State.OK, f"the registry answers, and {stages}")
