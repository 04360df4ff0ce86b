"""The connections to Redis that all parts share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stagefleet.errors import RedisUnreachableError
from stagefleet.redis_client import connect_redis, map_redis_errors
from stagefleet.redis_pool import Script
from tests.integration.workers.conftest import eventually

THREADS = 8
CALLS = 100


@pytest.fixture
def client(redis_server: Any) -> Any:
    with connect_redis(redis_server.url) as client:
        yield client


def named(admin: Any, name: str) -> list[str]:
    return [entry["id"] for entry in admin.client_list() if entry["name"] == name]


def test_a_connection_that_was_closed_while_idle_is_replaced(client: Any, redis_server: Any) -> None:
    client.client_setname("idle")
    admin = redis_server.client()
    (number,) = named(admin, "idle")
    admin.client_kill_filter(_id=number)
    assert client.set("here", 1)
    assert [] == named(admin, "idle")


def test_a_connection_that_was_just_used_is_taken_without_a_look_at_its_socket(
    client: Any, monkeypatch: Any
) -> None:
    """Issue 10: each look lets another thread of the worker run, and then waits for its turn."""
    looks: list[Any] = []
    script = Script(client, "return 1")
    script()
    pool = client.connection_pool
    monkeypatch.setattr(
        pool.connection_class, "can_read", lambda connection, timeout=0: looks.append(connection)
    )
    assert 1 == script()
    assert [] == looks
    pool._available_connections[0].used_at -= 1
    assert 1 == script()
    assert 1 == len(looks)


def test_threads_do_not_read_one_another_s_answers(client: Any) -> None:
    def echo(thread: int) -> list[bytes]:
        return [client.echo(f"{thread}.{number}") for number in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(echo, range(THREADS)))
    assert [
        [f"{thread}.{number}".encode() for number in range(CALLS)] for thread in range(THREADS)
    ] == answers
    assert len(client.connection_pool._available_connections) <= THREADS
    assert not client.connection_pool._in_use_connections


def test_a_connection_given_back_twice_is_there_once(client: Any) -> None:
    pool = client.connection_pool
    connection = pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    assert pool.get_connection() is not pool.get_connection()


def test_an_answer_that_was_not_awaited_is_nobody_s(redis_server: Any) -> None:
    impatient = connect_redis(redis_server.url)
    impatient.connection_pool.connection_kwargs |= {"socket_timeout": 0.2, "retry": None}
    redis_server.pause()
    with pytest.raises(RedisUnreachableError), map_redis_errors(impatient):
        impatient.echo("late")
    redis_server.resume()
    assert b"mine" == impatient.echo("mine")
    impatient.close()


def test_closing_closes_all_connections(redis_server: Any) -> None:
    client: Any = connect_redis(redis_server.url)
    client.client_setname("closing")
    client.close()
    admin = redis_server.client()
    eventually(lambda: not named(admin, "closing"), "its connection is closed")
