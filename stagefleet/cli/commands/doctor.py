"""`stagefleet doctor`: reports missing and unreachable parts, with advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import redis
import typer

from stagefleet.cli import options as opt
from stagefleet.cli.output import print_json, print_line
from stagefleet.cli.session import read_settings
from stagefleet.credentials import DockerConfig
from stagefleet.embedded import require_packages
from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, StagefleetError, UsageError
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet_storages import require_engine
from stagefleet.names import Repository
from stagefleet.project_addresses import parse_repository
from stagefleet.redaction import masked_url
from stagefleet.redis_client import connect_redis
from stagefleet.redis_facts import RedisFacts, check_writes, missing_rights, read_facts, rights_rule
from stagefleet.runs.messages import QUEUES, live_hosts, queue_of
from stagefleet.runs.models import WorkerInfo
from stagefleet.runs.versions import own_version
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import Settings
from stagefleet.settings_sources import settings_file

_NO_WORKER_CODE = 4
_FETCH = queue_of("fetch_stage")
_UNREACHABLE = RedisUnreachableError.exit_code
_WRONG = RedisConfigurationError.exit_code
_NEARLY_FULL = 0.9
_NAMED = 5
"""The maximum of missing commands to name; without any rights, some fifty are missing."""


class State(StrEnum):
    """The state of a part."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check; `code` is the exit code, 0 unless the check failed."""

    check: str
    state: State
    message: str
    advice: str = ""
    code: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `doctor --json` prints it."""
        return {
            "check": self.check,
            "state": str(self.state),
            "message": self.message,
            "advice": self.advice or None,
        }


def _failed(check: str, error: StagefleetError) -> CheckResult:
    """Build a finding from an error."""
    return CheckResult(check, State.FAILED, str(error), code=error.exit_code)


def run_checks(
    repositories: list[Repository], queue: str | None, *, sources: Collection[Repository]
) -> Iterator[CheckResult]:
    """Check every part, in the order of their dependencies.

    The registries of `repositories` are tried; `sources` among them must exist, others may be new. Only the
    queue, if one is named, must have workers.
    """
    try:
        settings = read_settings()
    except StagefleetError as error:
        yield _failed("settings", error)
        return
    file = settings_file()
    source = f"{file} and the environment" if file.is_file() else f"the environment (there is no {file})"
    yield CheckResult("settings", State.OK, f"read from {source}")
    yield from check_redis_server(settings)
    if settings.redis_url is not None:
        yield from _check_workers(settings, queue)
    yield _check_docker_config()
    if queue in {None, _FETCH}:
        yield _check_engine(settings)
    yield from _check_registries(settings, repositories, sources)


def _check_workers(settings: Settings, needed: str | None = None) -> Iterator[CheckResult]:
    with Fleet.connect(settings=settings) as fleet:
        try:
            workers = fleet.workers()
        except StagefleetError as error:
            yield _failed("workers", error)
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


def _check_engine(settings: Settings) -> CheckResult:
    """Check the Docker Engine of this host; only one that the settings name must be there."""
    try:
        address = settings.engine.address
        if address is None:
            return CheckResult(
                "engine", State.OK, "there is no Docker Engine here, and most commands need none"
            )
        require_engine(address)
        from stagefleet.engine import Engine  # noqa: PLC0415 - brings docker-py, which most fleets do without

        engine = Engine(address, settings.engine, config=DockerConfig(docker_config_file()))
        with closing(engine):
            return CheckResult("engine", State.OK, f"{engine.describe()}; {address.source} names it")
    except StagefleetError as error:
        if settings.engine.url:
            return _failed("engine", error)
        return CheckResult("engine", State.WARNING, str(error))


def _check_registries(
    settings: Settings, repositories: list[Repository], sources: Collection[Repository]
) -> Iterator[CheckResult]:
    # Starts nothing, only requests to registries. A new repository is reported below.
    with Fleet.embedded(settings=settings, on_notice=lambda _: None) as fleet:
        for repository in repositories:
            try:
                stage = next(fleet.stage_ids(repository, missing_ok=repository not in sources), None)
            except StagefleetError as error:
                yield _failed(str(repository), error)
            else:
                stages = "there are no stages yet" if stage is None else "there are stages"
                yield CheckResult(str(repository), State.OK, f"the registry answers, and {stages}")


# Redis


def check_redis_server(settings: Settings) -> Iterator[CheckResult]:
    """Check Redis: its version and mode, the rights of its user, and if it accepts and keeps writes."""
    if settings.redis_url is None:
        try:
            require_packages()
        except StagefleetError as error:
            yield _failed("redis", error)
            return
        yield CheckResult(
            "redis",
            State.WARNING,
            "no URL is set, so each command starts a private Valkey and a worker",
            "for a fleet, set STAGEFLEET_REDIS_URL",
        )
        return
    try:
        with connect_redis(settings.redis_url) as client:
            yield from _check_server(client, settings.redis_url, settings.key_prefix)
    except StagefleetError as error:
        yield _failed("redis", error)


def _check_server(client: redis.Redis, url: str, prefix: str) -> Iterator[CheckResult]:
    shown, facts = masked_url(url), read_facts(client)
    if facts is None:
        yield CheckResult("redis", State.OK, f"Redis answers at {shown}")
    elif facts.problem is not None:
        yield CheckResult("redis", State.FAILED, f"{shown} {facts.problem[0]}", facts.problem[1], _WRONG)
        return
    else:
        yield CheckResult("redis", State.OK, f"{facts.name} {facts.version} answers at {shown}")
    if facts is not None and facts.primary is not None:
        yield _replica(facts)
    else:
        yield _check_writes(client, prefix)
        yield _check_rights(client, prefix)
    if facts is not None:
        yield _check_memory(facts.info)
        yield _check_maxmemory_policy(facts.info)
        yield _check_disk(facts.info)


def _replica(facts: RedisFacts) -> CheckResult:
    return CheckResult(
        "redis writes",
        State.FAILED,
        f"it is a replica of {facts.primary}, and takes none",
        "name the primary, or an address that always leads to it, in STAGEFLEET_REDIS_URL",
        _UNREACHABLE,
    )


def _check_writes(client: redis.Redis, prefix: str) -> CheckResult:
    try:
        check_writes(client, prefix)
    except StagefleetError as error:
        return _failed("redis writes", error)
    return CheckResult("redis writes", State.OK, "it takes them")


def _check_rights(client: redis.Redis, prefix: str) -> CheckResult:
    try:
        missing = missing_rights(client, prefix)
    except StagefleetError as error:
        return _failed("redis rights", error)
    if not missing:
        return CheckResult("redis rights", State.OK, "its user may run what a fleet needs")
    more = f" and {len(missing) - _NAMED} more commands" if len(missing) > _NAMED else ""
    message = f"its user may not run {', '.join(missing[:_NAMED])}{more}"
    advice = f"give it these rights: {rights_rule(prefix)}"
    if missing == ["info"]:
        return CheckResult("redis rights", State.WARNING, f"{message}: nothing is known of its state", advice)
    return CheckResult("redis rights", State.FAILED, message, advice, _WRONG)


def _check_memory(info: Mapping[str, Any]) -> CheckResult:
    limit, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    if not limit:
        return CheckResult("redis memory", State.OK, "it has no limit")
    message = f"{used / limit:.0%} of its maxmemory are used"
    advice = "raise maxmemory, or let runs expire sooner (runs.retention_seconds)"
    if used >= limit:
        return CheckResult("redis memory", State.FAILED, message, advice, _UNREACHABLE)
    if used >= limit * _NEARLY_FULL:
        return CheckResult("redis memory", State.WARNING, message, advice)
    return CheckResult("redis memory", State.OK, message)


def _check_maxmemory_policy(info: Mapping[str, Any]) -> CheckResult:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return CheckResult("redis eviction", State.OK, "nothing is evicted")
    return CheckResult(
        "redis eviction",
        State.WARNING,
        f"maxmemory-policy is {policy}: Redis may forget runs under way",
        "set maxmemory-policy noeviction",
    )


def _check_disk(info: Mapping[str, Any]) -> CheckResult:
    advice = "make room on the disk of Redis, and look at its log"
    if info.get("aof_enabled") and info.get("aof_last_write_status") not in {None, "ok"}:
        message = "the append-only file cannot be written"
        return CheckResult("redis disk", State.FAILED, message, advice, _UNREACHABLE)
    if info.get("rdb_last_bgsave_status") not in {None, "ok"}:
        return CheckResult("redis disk", State.WARNING, "the last snapshot could not be written", advice)
    if not info.get("aof_enabled"):
        return CheckResult(
            "redis disk",
            State.WARNING,
            "the append-only file is off: a restart of Redis forgets runs under way",
            "set appendonly yes",
        )
    return CheckResult("redis disk", State.OK, "the append-only file is on")


_PURPOSES = {
    "copy": queue_of("copy_stage"),
    "delete": queue_of("delete_stage"),
    "describe": queue_of("describe_stage"),
    "fetch": queue_of("fetch_stage"),
    "publish": queue_of("publish_stage"),
    "records": queue_of("rm_record"),
    "verify": queue_of("verify_stage"),
}
"""The queue for the items of each command."""


def run_doctor(
    repositories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPO", help="Repositories whose registries to try; for copy, the last may be new."
        ),
    ] = None,
    *,
    purpose: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="COMMAND",
            help=f"Only what this command needs: {', '.join(_PURPOSES)}. Default: all that the fleet can do.",
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Say what is missing or unreachable, and what to do."""
    parsed = [parse_repository(address) for address in repositories or ()]
    code = 0
    queue = _queue_for(purpose)
    for result in run_checks(parsed, queue, sources=_sources(purpose, parsed)):
        code = code or result.code
        if json:
            print_json(result.as_json())
        else:
            print_line(_line(result))
    raise typer.Exit(code)


def _queue_for(purpose: str | None) -> str | None:
    """Return the queue whose workers a command needs; None for all."""
    if purpose is None:
        return None
    if purpose not in _PURPOSES:
        raise UsageError(f"--for {purpose}: the commands that need workers are {', '.join(_PURPOSES)}")
    return _PURPOSES[purpose]


def _sources(purpose: str | None, repositories: list[Repository]) -> list[Repository]:
    """Return those of some repositories that must exist for a command."""
    if purpose == "copy":
        return repositories[:-1]
    return repositories if purpose in {"delete", "describe"} else []


def _line(result: CheckResult) -> str:
    advice = f": {result.advice}" if result.advice else ""
    return f"{result.state:<8} {result.check}: {result.message}{advice}"
