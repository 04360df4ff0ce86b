"""What `stagefleet doctor` looks at, one check a part: how it is, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stagefleet.client import Fleet
from stagefleet.client.hosts import live_hosts
from stagefleet.connection import connect_redis, masked_url, reaching
from stagefleet.docker_environment import docker_config_file
from stagefleet.errors import StagefleetError, UsageError
from stagefleet.names import Repository
from stagefleet.runs.dispatch import QUEUES, queue_of
from stagefleet.runs.model import WorkerInfo
from stagefleet.runs.versions import own_version
from stagefleet.settings import Settings
from stagefleet.settings_sources import settings_file

__all__ = ["Finding", "State", "examine_all"]

_NO_WORKER_CODE = 4
_FETCH = queue_of("fetch_stage")


class State(StrEnum):
    """How a part is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: The part that was looked at.
        state: How it is.
        message: What was found.
        advice: What to do about it, "" where nothing needs doing.
        code: The exit code that it gives, 0 unless it failed.
    """

    check: str
    state: State
    message: str
    advice: str = ""
    code: int = 0

    def as_json(self) -> dict[str, Any]:
        """The finding as `doctor --json` prints it."""
        return {
            "check": self.check,
            "state": str(self.state),
            "message": self.message,
            "advice": self.advice or None,
        }


def examine_all(load: Callable[[], Settings], repositories: list[Repository]) -> Iterator[Finding]:
    """Look at every part, in the order in which they depend on each other.

    Args:
        load: Reads the settings.
        repositories: Whose registries are to be tried.
    """
    try:
        settings = load()
    except StagefleetError as error:
        yield _failed("settings", error)
        return
    file = settings_file()
    source = f"{file} and the environment" if file.is_file() else f"the environment (there is no {file})"
    yield Finding("settings", State.OK, f"read from {source}")
    yield from _examine_redis(settings)
    yield _examine_docker_config()
    yield from _examine_registries(settings, repositories)


def _failed(check: str, error: StagefleetError) -> Finding:
    return Finding(check, State.FAILED, str(error), code=error.exit_code)


def _examine_redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        yield Finding(
            "redis",
            State.WARNING,
            "no URL is set, so each command starts a private Valkey and a worker",
            "for a fleet, set STAGEFLEET_REDIS_URL",
        )
        return
    try:
        client = connect_redis(settings.redis_url)
        with client, reaching(client):
            info: Any = client.info()
    except StagefleetError as error:
        yield _failed("redis", error)
        return
    server = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "?")
    yield Finding("redis", State.OK, f"{server} {version} answers at {masked_url(settings.redis_url)}")
    yield from _examine_memory(info)
    yield from _examine_workers(settings)


def _examine_memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        yield Finding("redis memory", State.OK, "nothing is evicted")
    else:
        yield Finding(
            "redis memory",
            State.WARNING,
            f"maxmemory-policy is {policy}: Redis may forget runs under way",
            "set maxmemory-policy noeviction",
        )
    if info.get("aof_enabled"):
        yield Finding("redis disk", State.OK, "the append-only file is on")
    else:
        yield Finding(
            "redis disk",
            State.WARNING,
            "the append-only file is off: a restart of Redis forgets runs under way",
            "set appendonly yes",
        )


def _examine_workers(settings: Settings) -> Iterator[Finding]:
    with Fleet.connect(settings=settings) as fleet:
        try:
            workers = fleet.workers()
        except StagefleetError as error:
            yield _failed("workers", error)
            return
    yield from _examine_versions(workers)
    workers = [worker for worker in workers if worker.version.is_compatible]
    for queue in dict.fromkeys(QUEUES.values()):
        slots = [worker.slots for worker in workers if queue in worker.queues]
        check = f"workers of {queue}"
        if slots:
            yield Finding(check, State.OK, f"{len(slots)} processes, {sum(slots)} items at once")
        elif queue == _FETCH:  # a fleet without engines is whole
            yield Finding(
                check, State.WARNING, "none listens", "run stagefleet worker beside a Docker Engine"
            )
        else:
            yield Finding(check, State.FAILED, "none listens", "run stagefleet worker", _NO_WORKER_CODE)
    if hosts := live_hosts(workers):
        yield Finding("hosts", State.OK, f"stages can be fetched to {', '.join(hosts)}")


def _examine_versions(workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    """Hold the versions of the workers against this one's."""
    own = own_version()
    counts = Counter(worker.version for worker in workers)
    for version, count in sorted(counts.items(), key=lambda entry: str(entry[0])):
        processes = f"{count} processes run {version}"
        if version == own:
            yield Finding("version of workers", State.OK, f"{processes}, as this command does")
        elif version.is_compatible:
            yield Finding(
                "version of workers",
                State.WARNING,
                f"{processes}, this command {own}",
                "update workers first, then clients (docs/upgrading.md)",
            )
        else:
            yield Finding(
                "version of workers",
                State.FAILED,
                f"{processes}, and this command {own}: they cannot read what each other writes",
                "run both at one version (docs/upgrading.md)",
                UsageError.exit_code,
            )


def _examine_docker_config() -> Finding:
    file = docker_config_file()
    if file.is_file():
        return Finding("logins", State.OK, f"read from {file}")
    return Finding("logins", State.OK, f"there is no {file}: registries are asked without a login")


def _examine_registries(settings: Settings, repositories: list[Repository]) -> Iterator[Finding]:
    with Fleet.embedded(settings=settings) as fleet:  # starts nothing: only registries are asked
        for repository in repositories:
            try:
                stage = next(fleet.stage_ids(repository), None)
            except StagefleetError as error:
                yield _failed(str(repository), error)
            else:
                stages = "there are no stages yet" if stage is None else "there are stages"
                yield Finding(str(repository), State.OK, f"the registry answers, and {stages}")
