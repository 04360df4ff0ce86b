"""What only the locks on Redis promise: nothing left behind, few commands, lost scripts and connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.locks import RedisLocks
from tests.contract.lock_managers import LEASE_SECONDS, RedisLockHarness

MOST_COMMANDS_A_LOCK = 16
"""Inside Redis, to take and release a lock that nobody else asks for; 2 of them are sent."""


@pytest.fixture
def harness(redis_server: Any) -> Iterator[RedisLockHarness]:
    made = RedisLockHarness(redis_server.url)
    yield made
    made.close()


def test_a_released_lock_leaves_nothing_but_the_counter(harness: RedisLockHarness) -> None:
    harness.client().acquire("x").release()

    assert {"lock:fence"} == harness.keys()
    assert -1 == harness.redis.ttl(f"{harness.prefix}lock:fence")


def test_what_vanished_clients_left_is_swept_by_those_who_ask_for_other_locks(
    harness: RedisLockHarness,
) -> None:
    client = harness.client()
    for number in range(20):
        client._request(f"dead {number}", "dead", "dead", shared=False)
    harness.advance(LEASE_SECONDS + 1)

    for number in range(12):
        client.acquire(f"living {number}").release()

    assert {"lock:fence"} == harness.keys()


def test_sweeping_leaves_alone_what_is_renewed(harness: RedisLockHarness) -> None:
    client, other = harness.client(), harness.client()
    hold = client.acquire("x")
    for _ in range(4):
        harness.advance(LEASE_SECONDS * 0.7)
        client._renewer.renew()
        other.acquire("y").release()

    assert ["x"] == [info.name for info in other.locks()]
    hold.check()
    hold.release()


def test_a_lock_is_two_calls_and_few_commands(harness: RedisLockHarness) -> None:
    client = harness.client()
    client.acquire("warm").release()
    harness.redis.config_resetstat()

    for number in range(10):
        client.acquire(f"x{number}").release()

    calls = {name: stat["calls"] for name, stat in harness.redis.info("commandstats").items()}
    assert 20 == calls["cmdstat_evalsha"]
    assert sum(calls.values()) <= 10 * MOST_COMMANDS_A_LOCK + 5


def test_several_free_locks_are_two_calls_together(harness: RedisLockHarness) -> None:
    client = harness.client()
    with client.acquire_free({"warm": False}):
        pass
    harness.redis.config_resetstat()

    for number in range(10):
        with client.acquire_free({"source": True, f"x{number}": False}) as held:
            assert 2 == len(held)

    assert 20 == harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert {"lock:fence"} == harness.keys()


def test_lost_scripts_are_loaded_again(harness: RedisLockHarness) -> None:
    client = harness.client()
    hold = client.acquire("x")
    harness.redis.script_flush()
    client._renewer.renew()
    harness.redis.script_flush()
    hold.check()
    hold.release()
    harness.redis.script_flush()
    assert [] == client.locks()


def test_one_who_waits_gets_the_lock_though_its_connections_are_killed(harness: RedisLockHarness) -> None:
    hold = harness.client().acquire("x")
    waiting, granted = threading.Event(), threading.Event()
    client = harness.client()

    def wait() -> None:
        with client.acquire("x", on_wait=lambda _: waiting.set()):
            granted.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert waiting.wait(10)
    for kind in ("normal", "pubsub"):
        harness.redis.client_kill_filter(_type=kind, skipme=True)
    hold.release()

    assert granted.wait(10)
    thread.join(10)
    assert [] == harness.client().locks()


def test_a_redis_that_is_not_there_is_an_error_that_says_what_to_do(make_redis: Any) -> None:
    server = make_redis()
    harness = RedisLockHarness(server.url)
    client: RedisLocks = harness.client()
    server.kill()

    with pytest.raises(RedisUnreachableError, match="start it"):
        client.acquire("x")

    server.start()
    harness.close()
