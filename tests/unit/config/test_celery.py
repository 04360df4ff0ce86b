"""The Celery application as it is configured."""

import hashlib
import inspect
import json
from types import SimpleNamespace

import pytest
from celery.worker.pidbox import Pidbox
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

from config.celery import make_app
from config.transport import FastReconnectConnection, ResilientChannel, ResilientTransport
from stagefleet.errors import SettingsError
from stagefleet.redis_client import connect_redis
from stagefleet.runs.messages import QUEUES
from stagefleet.settings import Settings


@pytest.fixture
def app():
    return make_app(Settings(redis_url="redis://:secret@localhost:1/0", key_prefix="mine:"))


def test_without_a_redis_there_is_no_application():
    with pytest.raises(SettingsError, match="STAGEFLEET_REDIS_URL"):
        make_app(Settings())


def test_the_queues_are_ours_and_no_others(app):
    assert set(QUEUES.values()) == set(app.amqp.queues)
    assert not app.conf.task_create_missing_queues


@pytest.mark.parametrize("operation", ["copy_stage", "delete_stage", "describe_stage"])
def test_tasks_go_to_the_queue_of_their_operation_through_the_default_exchange(app, operation):
    route = app.amqp.router.route({}, f"stagefleet.{operation}")
    assert operation.removesuffix("_stage") == route["queue"].name
    assert "" == route["queue"].exchange.name


def test_an_operation_of_ones_own_has_a_queue_of_its_own_beside_what_all_workers_do():
    app = make_app(Settings(redis_url="redis://localhost:1/0"), ["noop"])
    assert ["coordinate", "noop"] == sorted(app.amqp.queues)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost:1/0", "rediss://localhost:1/0", "unix:///run/redis.sock", "unix:///run/r.sock?db=3"],
)
def test_every_kind_of_url_has_the_mended_transport(url):
    connection = make_app(Settings(redis_url=url)).connection_for_read()
    assert isinstance(connection, FastReconnectConnection)
    assert ResilientTransport is connection.transport_cls or isinstance(
        connection.transport, ResilientTransport
    )
    assert ResilientChannel is connection.transport.Channel


def test_certificates_of_a_redis_with_tls_are_checked():
    app = make_app(Settings(redis_url="rediss://localhost:1/0"))
    assert "CERT_REQUIRED" == app.conf.broker_use_ssl["ssl_cert_reqs"].name


class Channel(ResilientChannel):
    """A channel that connects to nothing."""

    def __init__(self, connection: FastReconnectConnection) -> None:
        self.connection = connection.transport
        self.closed = True

    def __del__(self):
        """Nothing to close."""


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis.test",
        "redis://redis.test:7/3",
        "redis://redis.test:7?db=3",
        "redis://user:p%40%2Fw@redis.test:7/?db=3&client_name=me&socket_timeout=1",
        "redis://redis.test/?username=user&password=p%40w",
        "redis://[::1]:7/1",
        "rediss://redis.test/0?ssl_ca_certs=/ca&ssl_certfile=/cert&ssl_keyfile=/key",
        "rediss://redis.test/0?ssl_check_hostname=no",
        "unix:///run/redis.sock?db=3",
        "unix://user:pw@/run/redis.sock?db=3",
        "unix:///run/redis.sock?db=3&password=pw",
    ],
)
def test_kombu_connects_to_what_the_ledger_connects_to(url):
    """U4: whatever form a URL has, messages are taken where the ledger puts them."""
    with make_app(Settings(redis_url=url)).connection_for_read() as connection:
        kombu = Channel(connection)._connparams()
    ours = connect_redis(url).connection_pool.connection_kwargs
    defaults = {"host": "localhost", "port": 6379, "db": 0} if "path" not in ours else {"db": 0}
    names = (
        "host",
        "port",
        "db",
        "username",
        "password",
        "path",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
    )
    for name in (*names, "ssl_check_hostname"):
        assert ours.get(name, defaults.get(name)) == kombu.get(name), name


def test_the_wire_carries_json_only(app):
    assert ["json"] == list(app.conf.accept_content)
    assert "json" == app.conf.task_serializer
    json.dumps(app.conf.broker_transport_options)


class Broken(kombu_redis.Channel):
    """A channel with a pop pending on a connection that broke; what a close does is noted."""

    connection_errors = (RedisConnectionError,)

    def __init__(self) -> None:
        self.log: list[object] = []
        self.closed, self._in_poll = False, True
        self.connection = type("Connection", (), {"cycle": set(), "close_channel": self.log.append})()
        link = SimpleNamespace(disconnect=lambda: None)
        self.client = SimpleNamespace(connection=link, parse_response=self._lose)
        self.auto_delete_queues, self._fanout_queues, self._consumers, self._qos = set(), {}, set(), None
        self._cycle = None

    @staticmethod
    def _lose(*_):
        raise RedisConnectionError("Connection closed by server.")

    def _flush_brpop_reauth(self):
        """No token is due."""

    def _disconnect_pools(self):
        self.log.append("pools")

    def _close_clients(self):
        self.log.append("clients")

    def __del__(self):
        """Nothing to close."""


class Mended(ResilientChannel, Broken):
    """The same channel, mended."""


def test_a_channel_with_a_broken_connection_is_closed_all_the_same():
    channel = Mended()
    channel.close()
    assert channel.closed
    assert ["pools", "clients", channel] == channel.log


def test_kombu_still_needs_the_mend():
    with pytest.raises(RedisConnectionError):
        Broken().close()


@pytest.mark.parametrize(
    ("replaced", "digest"),
    [
        (kombu_redis.Channel._brpop_read, "c42518699709f2df"),
        (kombu_redis.Channel._receive_one, "d59b8751d89757dc"),
        (Pidbox.on_message, "a7fc59f96634f57f"),
    ],
)
def test_what_ours_replaces_is_what_it_was_written_for(replaced, digest):
    """R9: readers of messages are insides of kombu and Celery: who changes one has to look at ours."""
    assert digest == hashlib.sha256(inspect.getsource(replaced).encode()).hexdigest()[:16]
