"""What a server says of itself, on real servers and on what none here is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import stagefleet
from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.redis_client import connect_redis
from stagefleet.redis_facts import (
    _COMMANDS,
    RedisFacts,
    check_redis,
    check_writes,
    missing_rights,
    read_facts,
)
from tests.integration.workers.conftest import eventually

REDIS_6 = {"redis_version": "6.2.14", "redis_mode": "standalone", "role": "master", "cluster_enabled": 0}


def as_answer(info: dict[str, Any]) -> Any:
    """What a fake answers: INFO with these facts, anything else with OK."""
    text = "\r\n".join(f"{name}:{value}" for name, value in info.items()).encode()
    return lambda command: b"$%d\r\n%s" % (len(text), text) if command[0] == b"INFO" else b"+OK"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"redis_version": "7.0.15"}, None),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, None),
        ({"redis_version": "6.0.20"}, "is of version 6.0.20, which is too old"),
        ({"redis_version": "5.0.7"}, "is of version 5.0.7, which is too old"),
        ({"redis_mode": "sentinel"}, "is a Sentinel, which is not supported"),
        ({"redis_mode": None, "server_mode": "sentinel"}, "is a Sentinel, which is not supported"),
        ({"cluster_enabled": 1}, "is in cluster mode, which is not supported"),
        ({"redis_mode": "cluster"}, "is in cluster mode, which is not supported"),
        ({"redis_version": "unknown"}, None),
    ],
)
def test_what_is_unfit_is_told_by_what_it_says(changes, problem):
    """W35: a cluster, a Sentinel and a version too old are told by INFO, as Redis and Valkey write it."""
    found = RedisFacts.of(REDIS_6 | changes).problem
    assert problem == (None if found is None else found[0])


def test_a_primary_is_fit(redis_server):
    """R8: what is fit passes the check, with its rights, and nothing of the check stays there."""
    check_redis(redis_server.url, "t:", rights=True)
    client = redis_server.client()
    eventually(lambda: [] == client.keys("*"), "what the check wrote is gone")
    facts = read_facts(connect_redis(redis_server.url))
    assert facts is not None
    assert ("standalone", None, None) == (facts.mode, facts.primary, facts.problem)


def test_a_replica_is_out_of_reach_for_now(make_redis):
    """R34: a replica may become the primary: it is waited for."""
    replica = make_redis(options={"replicaof": "127.0.0.1 1"})
    with pytest.raises(RedisUnreachableError, match="READONLY"):
        check_redis(replica.url, "t:")
    facts = read_facts(connect_redis(replica.url))
    assert facts is not None
    assert "127.0.0.1:1" == facts.primary


def test_a_full_memory_is_out_of_reach_for_who_begins(make_redis):
    """R8: who would begin to listen at maxmemory waits until there is room."""
    full = make_redis(options={"maxmemory": "100kb"})
    with pytest.raises(RedisUnreachableError, match="OOM"):
        check_redis(full.url, "t:")
    check_writes(connect_redis(full.url), "t:")  # what is under way needs no more memory


def test_a_cluster_is_refused(make_redis):
    """W35: cluster mode is not supported, and is told in one line."""
    cluster = make_redis(options={"cluster-enabled": "yes"})
    with pytest.raises(RedisConfigurationError, match="is in cluster mode, which is not supported"):
        check_redis(cluster.url, "t:")


@pytest.mark.parametrize("changes", [{"redis_mode": "sentinel"}, {"redis_version": "6.0.20"}])
def test_what_no_fleet_can_work_with_is_refused(fake_redis, changes):
    """W35: who starts on a Sentinel or on an old Redis is told at once."""
    fake_redis.answer = as_answer(REDIS_6 | changes)
    with pytest.raises(RedisConfigurationError):
        check_redis(fake_redis.url, "t:")


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("~t:* &* +@all -@dangerous +info", []),
        ("~t:* &* +@all -@dangerous", ["info"]),
        ("~t:* &* +@all -hset -brpop", ["hset", "brpop"]),
        ("~t:* resetchannels +@all", ["publish", "psubscribe"]),
        ("~t:* &* +@all -@scripting", ["eval", "script", "evalsha"]),
    ],
)
def test_rights_that_are_missing_are_named(redis_server, rule, missing):
    """R8: a user who lacks a right that a fleet needs is found before the fleet runs into it."""
    redis_server.client().execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", *rule.split())
    client = connect_redis(redis_server.url.replace("//", "//u:pw@"))
    assert missing == missing_rights(client, "t:")
    client.close()


def test_a_user_who_may_not_ask_for_facts_is_no_obstacle(redis_server):
    """R8: without the right to ask INFO a fleet works all the same."""
    redis_server.client().execute_command(
        "ACL", "SETUSER", "u", "reset", "on", ">pw", "~t:*", "&*", "+@all", "-@dangerous"
    )
    url = redis_server.url.replace("//", "//u:pw@")
    check_redis(url, "t:", rights=True)
    assert None is read_facts(connect_redis(url))


def test_every_command_of_our_scripts_is_tried():
    """R8: a right that a script needs is among those that are tried."""
    tried = {line.split()[0] for line in _COMMANDS.strip().splitlines()}
    files = [path for path in Path(stagefleet.__file__).parent.rglob("*") if path.suffix in {".lua", ".py"}]
    texts = [path.read_text(encoding="utf-8") for path in files]
    used = {name for text in texts for name in re.findall(r"redis\.p?call\('([A-Z]+)'", text)}
    assert used
    assert set() == used - tried


def test_a_server_that_takes_itself_for_the_primary_is_believed(redis_server, make_redis):
    """R34: a primary that was cut off and does not know it takes writes, and is not told from the new one."""
    cut_off, promoted = redis_server, make_redis()
    for server in (cut_off, promoted):
        check_redis(server.url, "t:")
