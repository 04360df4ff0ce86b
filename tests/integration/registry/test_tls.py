"""TLS: whom the client trusts, what it shows, and what it says where either is wrong."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from stagefleet.errors import CertificateError, PlainHttpError, RegistryUnreachableError, SettingsError
from tests.services import TlsProxy, push_image


@pytest.fixture
def secure(make_registry, tls):
    return make_registry(tls=tls)


@pytest.fixture
def reserved(make_registry, tls):
    """A registry for those who show a certificate."""
    return make_registry(tls=tls, client_certificates=True)


def https(server, **settings):
    """Loopback hosts are spoken to without TLS unless the settings say so."""
    return {server.host: {"plain_http": False, **settings}}


def test_the_authority_in_the_settings_is_trusted(secure, connect, tls, at):
    push_image(secure, "team/app", "one")
    client = connect(registries=https(secure, ca_file=tls.ca_file))
    assert ["one"] == list(client.tags(at(secure)))


def test_an_unknown_authority_is_refused_at_once_and_the_setting_named(secure, connect):
    client = connect(registries=https(secure), retries=20, backoff_seconds=60, backoff_limit_seconds=60)
    with pytest.raises(CertificateError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        client.ping(secure.host)
    assert f'registries."{secure.host}".ca_file' in str(caught.value)
    assert not caught.value.retryable


def test_the_systems_own_list_is_trusted(secure, connect, tls, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca_file))
    connect(registries=https(secure)).ping(secure.host)


def test_insecure_takes_any_certificate(secure, connect):
    connect(registries=https(secure, insecure=True)).ping(secure.host)


def test_the_authority_of_one_registry_is_not_that_of_another(secure, make_registry, connect, tls):
    other = make_registry(tls=tls)
    client = connect(registries=https(secure, ca_file=tls.ca_file) | https(other))
    client.ping(secure.host)
    with pytest.raises(CertificateError):
        client.ping(other.host)


def test_plain_http_to_a_registry_that_speaks_tls_says_what_it_said_and_names_the_setting(secure, connect):
    with pytest.raises(PlainHttpError, match="HTTP request to an HTTPS server") as caught:
        connect().ping(secure.host)
    assert f'set plain_http = false under [registries."{secure.host}"]' in str(caught.value)


def test_a_head_whose_refusal_has_no_words_names_the_setting_too(secure, connect, at):
    with pytest.raises(PlainHttpError) as caught:
        connect().head_manifest(at(secure).tagged("tag"))
    assert f'set plain_http = false under [registries."{secure.host}"]' in str(caught.value)


def test_plain_http_to_a_server_with_tls_that_hangs_up_names_the_setting(registry, tls, connect):
    with TlsProxy(registry.host, tls) as proxy, pytest.raises(RegistryUnreachableError) as caught:
        connect(retries=0).ping(proxy.host)
    assert f'set plain_http = false under [registries."{proxy.host}"]' in str(caught.value)


def test_tls_to_a_registry_that_speaks_plain_http_names_the_setting(registry, connect):
    with pytest.raises(CertificateError) as caught:
        connect(registries=https(registry)).ping(registry.host)
    assert f'set plain_http = true under [registries."{registry.host}"]' in str(caught.value)


def test_a_client_certificate_is_shown(reserved, connect, tls):
    shown = {"client_certificate": tls.client_certificate, "client_key": tls.client_key}
    connect(registries=https(reserved, ca_file=tls.ca_file, **shown)).ping(reserved.host)


def test_certificate_and_key_may_stand_in_one_file(reserved, connect, tls, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(tls.client_certificate.read_bytes() + tls.client_key.read_bytes())
    connect(registries=https(reserved, ca_file=tls.ca_file, client_certificate=both)).ping(reserved.host)


def test_a_missing_client_certificate_is_said_with_its_setting(reserved, connect, tls):
    client = connect(registries=https(reserved, ca_file=tls.ca_file))
    with pytest.raises(CertificateError, match="client_certificate"):
        client.ping(reserved.host)


@pytest.mark.parametrize("key", ["ca_file", "client_certificate"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_that_cannot_be_used_is_named_with_its_key(secure, connect, tls, tmp_path, key, content):
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_bytes(content)
    client = connect(registries=https(secure, **{"ca_file": tls.ca_file, key: file}))
    with pytest.raises(SettingsError) as caught:
        client.ping(secure.host)
    assert f'registries."{secure.host}".{key}: {file} cannot be used' in str(caught.value)


def test_an_encrypted_key_is_refused_instead_of_asking_the_terminal(reserved, connect, tls, tmp_path):
    key = serialization.load_pem_private_key(tls.client_key.read_bytes(), None)
    file = tmp_path / "encrypted.key"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    shown = {"client_certificate": tls.client_certificate, "client_key": file}
    with pytest.raises(SettingsError, match=r"client_key: .*encrypted"):
        connect(registries=https(reserved, ca_file=tls.ca_file, **shown)).ping(reserved.host)
