"""What only the locks on Redis promise: nothing left behind, few commands, lost scripts and connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.locks import RedisLocks
from tests.contract.lock_twins import LEASE_SECONDS, RedisTwin

MOST_COMMANDS_A_LOCK = 16
"""Inside Redis, to take and release a lock that nobody else asks for; 2 of them are sent."""


@pytest.fixture
def twin(redis_server: Any) -> Iterator[RedisTwin]:
    made = RedisTwin(redis_server.url)
    yield made
    made.close()


def test_a_released_lock_leaves_nothing_but_the_counter(twin: RedisTwin) -> None:
    twin.client().acquire("x").release()

    assert {"lock:fence"} == twin.keys()
    assert -1 == twin.redis.ttl(f"{twin.prefix}lock:fence")


def test_what_vanished_clients_left_is_swept_by_those_who_ask_for_other_locks(twin: RedisTwin) -> None:
    client = twin.client()
    for number in range(20):
        client._attempt(f"dead {number}", "dead", "dead", shared=False)
    twin.advance(LEASE_SECONDS + 1)

    for number in range(12):
        client.acquire(f"living {number}").release()

    assert {"lock:fence"} == twin.keys()


def test_sweeping_leaves_alone_what_is_renewed(twin: RedisTwin) -> None:
    client, other = twin.client(), twin.client()
    hold = client.acquire("x")
    for _ in range(4):
        twin.advance(LEASE_SECONDS * 0.7)
        client._keeper.renew_all()
        other.acquire("y").release()

    assert ["x"] == [info.name for info in other.locks()]
    hold.check()
    hold.release()


def test_a_lock_is_two_calls_and_few_commands(twin: RedisTwin) -> None:
    client = twin.client()
    client.acquire("warm").release()
    twin.redis.config_resetstat()

    for number in range(10):
        client.acquire(f"x{number}").release()

    calls = {name: stat["calls"] for name, stat in twin.redis.info("commandstats").items()}
    assert 20 == calls["cmdstat_evalsha"]
    assert sum(calls.values()) <= 10 * MOST_COMMANDS_A_LOCK + 5


def test_several_free_locks_are_two_calls_together(twin: RedisTwin) -> None:
    client = twin.client()
    with client.take_free({"warm": False}):
        pass
    twin.redis.config_resetstat()

    for number in range(10):
        with client.take_free({"source": True, f"x{number}": False}) as held:
            assert 2 == len(held)

    assert 20 == twin.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert {"lock:fence"} == twin.keys()


def test_lost_scripts_are_loaded_again(twin: RedisTwin) -> None:
    client = twin.client()
    hold = client.acquire("x")
    twin.redis.script_flush()
    client._keeper.renew_all()
    twin.redis.script_flush()
    hold.check()
    hold.release()
    twin.redis.script_flush()
    assert [] == client.locks()


def test_one_who_waits_gets_the_lock_though_its_connections_are_killed(twin: RedisTwin) -> None:
    hold = twin.client().acquire("x")
    waiting, granted = threading.Event(), threading.Event()
    client = twin.client()

    def wait() -> None:
        with client.acquire("x", on_wait=lambda _: waiting.set()):
            granted.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert waiting.wait(10)
    for kind in ("normal", "pubsub"):
        twin.redis.client_kill_filter(_type=kind, skipme=True)
    hold.release()

    assert granted.wait(10)
    thread.join(10)
    assert [] == twin.client().locks()


def test_a_redis_that_is_not_there_is_an_error_that_says_what_to_do(make_redis: Any) -> None:
    server = make_redis()
    twin = RedisTwin(server.url)
    client: RedisLocks = twin.client()
    server.kill()

    with pytest.raises(RedisUnreachableError, match="start it"):
        client.acquire("x")

    server.start()
    twin.close()
