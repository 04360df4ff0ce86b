"""URLs that lead to something else than they say, on real servers."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, SettingsError, StagefleetError
from stagefleet.redis_client import connect_redis, map_redis_errors
from tests.services import TlsProxy, free_port


@pytest.fixture(scope="module")
def make_tls_proxy(tls):
    proxies: list[TlsProxy] = []

    def make(target, **options):
        proxies.append(TlsProxy(target, tls, **options).start())
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.stop()


def ask(url: str) -> Any:
    client: Any = connect_redis(url)
    with client, map_redis_errors(client):
        return client.ping()


def refusal(url: str) -> StagefleetError:
    with pytest.raises(StagefleetError) as caught:
        ask(url)
    return caught.value


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("stagefleet.redis_pool._SOCKET_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("stagefleet.redis_pool._CONNECT_TIMEOUT_SECONDS", 0.5)


def test_tls_with_a_trusted_certificate(redis_server, make_tls_proxy, tls):
    """U10: a rediss:// URL with its authority's file reaches a server that speaks TLS."""
    proxy = make_tls_proxy(redis_server.host)
    assert ask(f"rediss://{proxy.host}/0?ssl_ca_certs={tls.ca_file}")


def test_plain_words_to_a_server_that_speaks_tls(redis_server, make_tls_proxy):
    """U10: redis:// to a server that speaks TLS is wrong configuration, and names the other scheme."""
    error = refusal(f"redis://{make_tls_proxy(redis_server.host).host}/0")
    assert isinstance(error, RedisConfigurationError)
    assert "speaks TLS: write rediss://" in str(error)


@pytest.mark.usefixtures("impatient")
def test_tls_to_a_server_that_speaks_plainly(redis_server):
    """U10: rediss:// to a server that speaks plainly is wrong configuration, and names the other scheme."""
    error = refusal(f"rediss://{redis_server.host}/0")
    assert isinstance(error, RedisConfigurationError)
    assert "answers without TLS: write redis://" in str(error)


def test_a_certificate_that_nobody_signed_whom_we_trust(redis_server, make_tls_proxy):
    """U11: a certificate that is not trusted is wrong configuration, and names the option."""
    error = refusal(f"rediss://{make_tls_proxy(redis_server.host).host}/0")
    assert isinstance(error, RedisConfigurationError)
    assert "ssl_ca_certs" in str(error)


def test_a_certificate_that_the_client_has_to_show(redis_server, make_tls_proxy, tls):
    """U11: a server that asks for a client's certificate is told so; with one, it answers."""
    proxy = make_tls_proxy(redis_server.host, asks_for_certificate=True)
    url = f"rediss://{proxy.host}/0?ssl_ca_certs={tls.ca_file}"
    error = refusal(url)
    assert isinstance(error, RedisConfigurationError)
    assert "ssl_certfile=FILE&ssl_keyfile=FILE" in str(error)
    assert ask(f"{url}&ssl_certfile={tls.client_certificate}&ssl_keyfile={tls.client_key}")


@pytest.mark.parametrize("option", ["ssl_ca_certs=/nowhere.pem", "ssl_certfile=/nowhere.pem"])
def test_a_file_that_is_not_there(redis_server, make_tls_proxy, option):
    """U4: a file that the URL names and that cannot be read is wrong configuration."""
    error = refusal(f"rediss://{make_tls_proxy(redis_server.host).host}/0?{option}")
    assert isinstance(error, RedisConfigurationError)
    assert "not readable" in str(error)


def test_a_registry_is_no_redis(registry):
    """U4: a URL that leads to a registry is wrong configuration."""
    error = refusal(f"redis://{registry.host}/0")
    assert isinstance(error, RedisConfigurationError)
    assert "it is something else" in str(error)


def test_a_database_that_there_is_not(redis_server):
    """U4: a database number out of range is wrong configuration."""
    error = refusal(f"redis://{redis_server.host}/99")
    assert isinstance(error, RedisConfigurationError)
    assert "correct DATABASE" in str(error)


def test_nobody_at_the_address():
    """U4: where nobody listens Redis is out of reach, whatever the scheme."""
    for scheme in ("redis", "rediss"):
        assert isinstance(refusal(f"{scheme}://127.0.0.1:{free_port()}/0"), RedisUnreachableError)


def test_a_host_that_is_no_name():
    """U4: a host name that cannot be one is wrong configuration."""
    assert isinstance(refusal("redis://a..b:6379/0"), RedisConfigurationError)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://host/0?foo=bar", "there is no option 'foo'"),
        ("rediss://host/0?ssl_cert_reqs=bogus", "bogus"),
        ("redis://host/0?socket_timeout=soon", "socket_timeout"),
        ("sentinel://host/0", "schemes"),
    ],
)
def test_a_url_that_cannot_be_meant(url, words):
    """U4: what a URL says and redis-py does not know is refused before anything is asked."""
    with pytest.raises(SettingsError, match=words):
        connect_redis(url)
