"""How Celery reaches Redis, and what it shows of that."""

import json
import ssl

import pytest
from hypothesis import given, settings, strategies as st

from config.celery import make_app
from config.transport import Broker
from stagefleet.errors import SettingsError
from stagefleet.settings import Settings

PASSWORD = "planted/pass#word?of@me:1%"
ENCODED = "planted%2Fpass%23word%3Fof%40me%3A1%25"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{ENCODED}@redis.test:6380/3", "redis://redis.test:6380/3"),
        (f"redis://planted-user:{ENCODED}@redis.test", "redis://redis.test:6379/0"),
        (f"redis://redis.test/?db=4&password={ENCODED}&username=planted-user", "redis://redis.test:6379/4"),
        (f"rediss://planted-user:{ENCODED}@[::1]:1/0?ssl_password={ENCODED}", "rediss://[::1]:1/0"),
        (f"unix://planted-user:{ENCODED}@/run/redis.sock?db=1", "redis+socket:///run/redis.sock"),
        (f"unix:///run/redis.sock?password={ENCODED}", "redis+socket:///run/redis.sock"),
    ],
)
def test_a_connection_shows_no_login(url, shown):
    """R16: Celery tells its broker's address in logs, Flower and the answers to remote commands."""
    app = make_app(Settings(redis_url=url))
    with app.connection_for_read() as connection:
        assert shown == connection.as_uri()
        told = f"{connection.as_uri()} {connection!r} {connection.info()} {app.conf.table()}"
        told += json.dumps(connection.info(), default=repr) + repr(app.conf.broker_url)
        assert "planted" not in told


def test_flower_gets_the_login_because_it_asks_redis_itself():
    """R16: the one place that needs the whole address, and shows nothing of it."""
    app = make_app(Settings(redis_url=f"redis://me:{ENCODED}@redis.test:1/2"))
    with app.connection() as connection:
        assert f"redis://me:{ENCODED}@redis.test:1/2" == connection.as_uri(include_password=True)
        assert f"redis://me:{ENCODED}@redis.test:1/2" == connection.clone().as_uri(include_password=True)


def test_what_a_pool_makes_of_a_connection_logs_in_too():
    """R16: kombu makes a pool's connections of a class of its own, which knows the arguments alone."""
    app = make_app(Settings(redis_url=f"redis://me:{ENCODED}@redis.test:1/2"))
    with app.connection_for_write() as connection:
        found = connection.Pool(1).new()
        assert ("me", PASSWORD) == found.credential_provider.get_credentials()
        assert "planted" not in f"{found.as_uri()} {found!r}"


def test_without_a_login_there_is_none():
    broker = Broker.at("redis://redis.test:1/2")
    assert (None, "redis://redis.test:1/2") == (broker.credentials, broker.url_with_login)


def test_tls_is_checked_unless_the_address_says_otherwise():
    assert Broker.at("redis://redis.test/0").tls is None
    assert {"ssl_cert_reqs": ssl.CERT_REQUIRED} == Broker.at("rediss://redis.test/0").tls
    found = Broker.at("rediss://redis.test/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem").tls
    assert {"ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem"} == found


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=20).map(lambda text: f"redis://:planted{text}@redis.test/0"))
def test_whatever_the_address_is_it_is_read_or_refused_without_it(url):
    """R16: no part of a malformed address is quoted."""
    try:
        assert "planted" not in repr(Broker.at(url))
    except SettingsError as error:
        assert "planted" not in str(error)  # noqa: PT017 - either of two ends
