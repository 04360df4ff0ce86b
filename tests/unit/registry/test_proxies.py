"""Proxies that fail, and what is said of it."""

from __future__ import annotations

import socket

import pytest

from stagefleet.errors import RegistryError, UnreachableError
from stagefleet.names import Repository
from stagefleet.settings import RegistrySettings

HOST = "reg.example.test"
REPOSITORY = Repository.parse(f"{HOST}/group/app")
SECRET = "hunter2hunter2"
REFUSED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def behind(start, connect, monkeypatch):
    """Make a client behind a proxy that answers each request with these bytes, and hangs up."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def behind(answer, *, plain_http):
        def serve(_server, connection):
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_RDWR)

        proxy = start(serve)
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://ann:{SECRET}@{proxy.host}")
        return proxy, connect(registries={HOST: RegistrySettings(plain_http=plain_http)})

    return behind


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n\r\n", REFUSED],
    ids=["hangs-up", "no-http", "tunnel-to-nowhere", "login"],
)
def test_who_is_reached_through_a_proxy_that_fails_is_told_of_it(behind, answer):
    """Kind of W26: without its name people look for the fault at the registry."""
    proxy, client = behind(answer, plain_http=False)
    with pytest.raises(UnreachableError, match=f"through the proxy {proxy.host}") as caught:
        list(client.tags(REPOSITORY))
    assert SECRET not in str(caught.value)


def test_a_proxy_that_hangs_up_on_plain_http_is_named(behind):
    proxy, client = behind(b"", plain_http=True)
    with pytest.raises(UnreachableError, match=f"through the proxy {proxy.host}"):
        list(client.tags(REPOSITORY))


def test_a_proxy_that_wants_a_login_says_where_to_write_it(behind):
    """Kind of W26: 407 is the proxy's answer, and the registry's login does not help."""
    _, client = behind(REFUSED, plain_http=True)
    with pytest.raises(RegistryError, match="407: a proxy wants a login: in HTTP_PROXY write http://USER"):
        list(client.tags(REPOSITORY))
