"""The checks of `stagefleet doctor` on Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import redis

from stagefleet.cli.check_results import CheckResult, State, failed
from stagefleet.embedded import require_packages
from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, StagefleetError
from stagefleet.redis_client import connect_redis, masked_url
from stagefleet.redis_facts import RedisFacts, check_writes, missing_rights, read_facts, rights_rule
from stagefleet.settings import Settings

__all__ = ["check_redis_server"]

_UNREACHABLE = RedisUnreachableError.exit_code
_WRONG = RedisConfigurationError.exit_code
_NEARLY_FULL = 0.9
_NAMED = 5
"""The maximum of missing commands to name; without any rights, some fifty are missing."""


def check_redis_server(settings: Settings) -> Iterator[CheckResult]:
    """Check Redis: its version and mode, the rights of its user, and if it accepts and keeps writes."""
    if settings.redis_url is None:
        try:
            require_packages()
        except StagefleetError as error:
            yield failed("redis", error)
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
            yield from _check(client, settings.redis_url, settings.key_prefix)
    except StagefleetError as error:
        yield failed("redis", error)


def _check(client: redis.Redis, url: str, prefix: str) -> Iterator[CheckResult]:
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
        return failed("redis writes", error)
    return CheckResult("redis writes", State.OK, "it takes them")


def _check_rights(client: redis.Redis, prefix: str) -> CheckResult:
    try:
        missing = missing_rights(client, prefix)
    except StagefleetError as error:
        return failed("redis rights", error)
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
