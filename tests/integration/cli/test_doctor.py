"""What `stagefleet doctor` says of real Redis servers, and of what else may be at their address."""

from __future__ import annotations

import pytest

from stagefleet.cli.commands.doctor import (
    CheckResult,
    State,
    _check_disk,
    _check_maxmemory_policy,
    _check_memory,
    check_redis_server,
)
from stagefleet.settings import Settings
from tests.contract.test_redis_facts import REDIS_6, as_answer


def findings(url: str) -> dict[str, CheckResult]:
    return {finding.check: finding for finding in check_redis_server(Settings(redis_url=url))}


def failures(url: str) -> dict[str, tuple[int, str]]:
    """What failed: the exit code, and the line that is told."""
    told = {}
    for check, finding in findings(url).items():
        if finding.state is State.FAILED:
            line = f"{finding.message}: {finding.advice}"
            assert "\n" not in line
            assert "hunter2" not in line
            told[check] = finding.code, line
    return told


def test_a_sound_redis_has_no_failures(make_redis):
    """W34, W35: a primary with its file on, no limit and no eviction is all right."""
    found = findings(make_redis(append_only=True).url)
    assert {State.OK} == {finding.state for finding in found.values()}
    assert found["redis"].message.startswith("Valkey")


def test_a_full_disk_is_told_with_redis_s_reason(make_redis):
    """W34: doctor fails with 4 where Redis takes no writes as its disk is full."""
    redis = make_redis()
    redis.fill_disk()
    (code, line) = failures(redis.url)["redis writes"]
    assert (4, True, True) == (code, "MISCONF" in line, "make room on its disk" in line)
    assert State.WARNING is findings(redis.url)["redis disk"].state
    redis.free_disk()
    assert {} == failures(redis.url)


def test_a_replica_is_told_with_its_primary(make_redis):
    """R34: doctor names the primary of a replica."""
    ((check, (code, line)),) = failures(make_redis(options={"replicaof": "127.0.0.1 1"}).url).items()
    assert ("redis writes", 4) == (check, code)
    assert "a replica of 127.0.0.1:1, and takes none: name the primary" in line


def test_a_cluster_is_told(make_redis):
    """W35: doctor fails with 2 on a cluster, in one line."""
    ((check, (code, line)),) = failures(make_redis(options={"cluster-enabled": "yes"}).url).items()
    assert ("redis", 2) == (check, code)
    assert "is in cluster mode, which is not supported" in line


def test_lacking_replicas_are_told(make_redis):
    """R8: a primary that waits for its replicas is out of reach for now."""
    told = failures(make_redis(options={"min-replicas-to-write": "1"}).url)
    assert {4} == {code for code, _ in told.values()}
    assert "NOREPLICAS" in told["redis writes"][1]


def test_full_memory_is_told(make_redis):
    """R8: doctor fails with 4 at maxmemory."""
    (code, line) = failures(make_redis(options={"maxmemory": "100kb"}).url)["redis memory"]
    assert (4, True) == (code, "raise maxmemory" in line)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/99", "redis://:hunter2@127.0.0.1:{}/0"])
def test_a_wrong_database_and_a_wrong_login_are_told(redis_server, url):
    """U4: doctor fails with 2 for what stands wrong in the URL."""
    (code, _) = failures(url.format(redis_server.port))["redis"]
    assert 2 == code


def test_something_else_is_told(registry):
    """U4: doctor fails with 2 where something else answers."""
    (code, line) = failures(f"redis://{registry.host}/0")["redis"]
    assert (2, True) == (code, "it is something else" in line)


def test_rights_that_are_missing_are_told(redis_server):
    """R8: doctor names what the user may not do, and the rights that it needs."""
    client, url = redis_server.client(), redis_server.url.replace("//", "//u:hunter2@")
    setting = ("ACL", "SETUSER", "u", "reset", "on", ">hunter2", "~stagefleet:*", "&*", "+@all")
    client.execute_command(*setting, "-evalsha")
    (code, line) = failures(url)["redis rights"]
    assert (2, True, True) == (code, "evalsha" in line, "+@all -@dangerous +info +keys" in line)
    client.execute_command(*setting, "-info")
    assert {} == failures(url)
    assert State.WARNING is findings(url)["redis rights"].state


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"redis_mode": "sentinel"}, "is a Sentinel"), ({"redis_version": "6.0.20"}, "which is too old")],
)
def test_a_sentinel_and_an_old_version_are_told(fake_redis, changes, words):
    """W35: doctor fails with 2 at a Sentinel's port, and for a version too old."""
    fake_redis.answer = as_answer(REDIS_6 | changes)
    (code, line) = failures(fake_redis.url)["redis"]
    assert (2, True) == (code, words in line)


@pytest.mark.parametrize(
    ("examine", "info", "state"),
    [
        (_check_maxmemory_policy, {"maxmemory_policy": "noeviction"}, "ok"),
        (_check_maxmemory_policy, {"maxmemory_policy": "allkeys-lru"}, "warning"),
        (_check_disk, {"aof_enabled": 1, "aof_last_write_status": "ok"}, "ok"),
        (_check_disk, {"aof_enabled": 0}, "warning"),
        (_check_disk, {"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, "warning"),
        (_check_disk, {"aof_enabled": 1, "aof_last_write_status": "err"}, "failed"),
        (_check_memory, {"maxmemory": 0, "used_memory": 5}, "ok"),
        (_check_memory, {"maxmemory": 100, "used_memory": 50}, "ok"),
        (_check_memory, {"maxmemory": 100, "used_memory": 95}, "warning"),
        (_check_memory, {"maxmemory": 100, "used_memory": 100}, "failed"),
    ],
)
def test_a_redis_that_forgets_or_is_full_is_told(examine, info, state):
    """W34: doctor looks at what Redis keeps, on its disk and in its memory."""
    assert state == examine(info).state
