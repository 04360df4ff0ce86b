"""What Redis answers to kombu: what passes is a break, after which it connects anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from config import transport
from config.transport import FastReconnectConnection
from stagefleet.errors import RedisConfigurationError, RedisUnreachableError
from stagefleet.redis_facts import check_redis
from tests.contract.test_redis_answers import PASSING

REFUSALS = {name: answer for name, answer in PASSING.items() if name != "no script"}


@pytest.fixture(autouse=True)
def _installed():
    transport.install()


@pytest.fixture
def channel(fake_redis) -> Iterator[Any]:
    with FastReconnectConnection(fake_redis.url) as connection:
        yield connection.default_channel


def consume(channel: Any) -> object:
    client = channel.client
    client.connection = client.connection_pool.get_connection()
    client.connection.send_command("BRPOP", "queue", 1)
    return channel._brpop_read()


def listen(channel: Any) -> object:
    channel.subclient.psubscribe("pattern")
    return channel._receive_one(channel.subclient)


def publish(channel: Any) -> object:
    return channel._put("queue", {"body": "", "properties": {}})


def restore(channel: Any) -> object:
    return channel.qos.restore_visible(interval=1)


PATHS: dict[str, Callable[[Any], object]] = {
    "consume": consume,
    "listen": listen,
    "publish": publish,
    "restore": restore,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answer", REFUSALS)
def test_what_passes_is_a_break_for_kombu(channel, fake_redis, path, answer):
    """R8, R34: each answer that passes is an error of the connection, which Celery comes back from."""
    fake_redis.answer = b"-" + REFUSALS[answer].encode()
    with pytest.raises(channel.connection_errors):
        PATHS[path](channel)


def test_what_breaks_the_connection_says_why(channel, fake_redis):
    """R8: Celery logs the break with Redis's own reason."""
    fake_redis.answer = b"-" + PASSING["replica"].encode()
    with pytest.raises(channel.connection_errors) as caught:
        consume(channel)
    assert "READONLY You can't write against a read only replica." in repr(caught.value)


def test_a_script_that_redis_forgot_is_sent_anew(redis_server):
    """R8: kombu's own scripts outlive a Redis that has forgotten them."""
    with FastReconnectConnection(redis_server.url) as connection:
        channel = connection.default_channel
        for _ in range(2):
            redis_server.client().script_flush()
            arguments = ["member", "exchange", 1000]
            client = channel._create_client()
            channel._refresh_binding(keys=["table", "deadlines"], args=arguments, client=client)
    assert {b"member"} == redis_server.client().smembers("table")


def test_a_redis_that_is_away_is_asked_again(fake_redis):
    """R8: while the check says that Redis is out of reach, kombu goes on trying to connect."""
    answers = iter([RedisUnreachableError("it is a replica"), None])

    def check() -> None:
        if (error := next(answers)) is not None:
            raise error

    told: list[Exception] = []
    connection = FastReconnectConnection.checking(check)(fake_redis.url)
    connection.ensure_connection(errback=lambda error, _: told.append(error), interval_start=0.01)
    connection.close()
    assert ["it is a replica"] == [str(error) for error in told]


def test_a_redis_that_cannot_be_used_ends_the_attempts(fake_redis):
    """U11: a refused login is not asked again and again."""

    def check() -> None:
        raise RedisConfigurationError("refuses the login")

    connection = FastReconnectConnection.checking(check)(fake_redis.url)
    with pytest.raises(RedisConfigurationError):
        connection.ensure_connection()
    assert [] == fake_redis.commands


def test_the_check_is_made_before_each_connection_of_a_replica(make_redis):
    """R34: kombu does not listen at a replica: at the next connection the name may lead to the primary."""
    replica = make_redis(options={"replicaof": "127.0.0.1 1"})
    connection = FastReconnectConnection.checking(lambda: check_redis(replica.url, "t:"))(replica.url)
    with pytest.raises(OperationalError, match="READONLY"):
        connection.ensure_connection(max_retries=1, interval_start=0.01, interval_step=0.01)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://redis.test:1/0", "redis://redis.test:1/0"),
        ("redis://user@redis.test:1/0", "redis://user:**@redis.test:1/0"),
        ("redis://:hunter2@redis.test:1/0", "redis://:**@redis.test:1/0"),
    ],
)
def test_no_password_is_shown_where_there_is_none(url, shown):
    """U11: what is logged of a URL without a login does not look as if it had one."""
    assert shown == FastReconnectConnection(url).as_uri()
