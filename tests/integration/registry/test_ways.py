"""Which way requests go: plain HTTP or TLS, directly or through the environment's proxy."""

from __future__ import annotations

import pytest

from stagefleet.errors import CertificateError, RegistryUnreachableError
from tests.integration.registry.http_proxy import HttpProxy
from tests.services import free_port, push_image

NAME = "registry.test"


@pytest.fixture
def make_proxy_of(cleanup, monkeypatch):
    """Starts a proxy and names it in the environment, under the variables given."""

    def make(targets, *variables, login=None):
        proxy = cleanup.enter_context(HttpProxy(targets, login=login))
        for name in variables:
            monkeypatch.setenv(name, f"http://{login + '@' if login else ''}{proxy.host}")
        return proxy

    return make


def test_plain_http_is_spoken_where_the_settings_say_so(registry, connect, make_proxy_of, at):
    push_image(registry, "team/app", "one")
    proxy = make_proxy_of({NAME: registry.host}, "HTTP_PROXY")
    client = connect(registries={NAME: {"plain_http": True}})
    assert ["one"] == list(client.tags(at(NAME)))
    assert [f"GET http://{NAME}/v2/team/app/tags/list?n=1000"] == proxy.asked


def test_a_name_that_is_not_loopback_is_never_spoken_to_without_tls(registry, connect, make_proxy_of):
    proxy = make_proxy_of({f"{NAME}:443": registry.host}, "HTTP_PROXY", "HTTPS_PROXY")
    registry.forget_requests()
    with pytest.raises(CertificateError, match="plain_http"):
        connect().ping(NAME)
    assert [f"CONNECT {NAME}:443"] == proxy.asked
    assert not [request for request in registry.requests() if request.status == 200]


def test_tls_goes_through_the_proxy_to_its_end(make_registry, tls, connect, make_proxy_of):
    secure = make_registry(tls=tls)
    proxy = make_proxy_of({"localhost.test:443": secure.host}, "https_proxy")
    client = connect(registries={"localhost.test": {"ca_file": tls.ca_file}})
    with pytest.raises(CertificateError, match=r"localhost\.test"):  # the certificate is for other names
        client.ping("localhost.test")
    connect(registries={"localhost.test": {"insecure": True}}).ping("localhost.test")
    assert ["CONNECT localhost.test:443"] * 2 == proxy.asked


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_password_is_sent_to_the_proxy(make_registry, tls, registry, connect, make_proxy_of, scheme):
    server = make_registry(tls=tls) if scheme == "https" else registry
    make_proxy_of({NAME: server.host, f"{NAME}:443": server.host}, f"{scheme}_proxy", login="me:hunter2")
    connect(registries={NAME: {"plain_http": scheme == "http", "insecure": True}}).ping(NAME)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(connect, monkeypatch, scheme):
    dead = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:hunter2@{dead}")
    client = connect(registries={NAME: {"plain_http": scheme == "http"}}, retries=0)
    with pytest.raises(RegistryUnreachableError) as caught:
        client.ping(NAME)
    assert NAME in str(caught.value)
    assert f"proxy {dead}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_proxy_names_the_exceptions(connect, make_proxy_of, monkeypatch):
    proxy = make_proxy_of({}, "HTTP_PROXY", "HTTPS_PROXY")
    monkeypatch.setenv("NO_PROXY", "other.test,localhost.localdomain,.invalid")
    client = connect(registries={"registry.invalid": {"plain_http": True}}, retries=0)
    with pytest.raises(RegistryUnreachableError):
        client.ping("registry.invalid")  # a name that never resolves (RFC 6761, 6.4)
    assert [] == proxy.asked


def test_loopback_is_reached_without_the_proxy(registry, client, make_proxy_of):
    proxy = make_proxy_of({}, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    client.ping(registry.host)
    assert [] == proxy.asked
