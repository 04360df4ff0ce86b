"""What is said of a registry's certificate that is not trusted."""

from __future__ import annotations

import ssl
from datetime import timedelta

import pytest

from stagefleet.errors import CertificateError
from stagefleet.settings import RegistrySettings
from tests.services.tls import Tls
from tests.unit.registry.scripted import RegistryResponse


@pytest.fixture
def ping_over_tls(tmp_path, serve, connect):
    """Asks a registry with such a certificate whether it is one; returns what was said."""

    def ping(*, is_known=True, **options):
        tls = Tls(tmp_path / "tls", **options)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_certificate, tls.server_key)
        server = serve(lambda _: RegistryResponse(body=b"{}"), context=context)
        settings = RegistrySettings(plain_http=False, ca_file=tls.ca_file if is_known else None)
        with pytest.raises(CertificateError) as caught:
            connect(registries={server.host: settings}).ping(server.host)
        return str(caught.value)

    return ping


@pytest.mark.parametrize("days", [60, -60], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_time_is_to_be_renewed(ping_over_tls, days):
    said = ping_over_tls(age=timedelta(days=days))
    assert said.endswith(": renew the registry's certificate, or set the clock of this machine right")


def test_a_certificate_for_another_address_is_told_so(ping_over_tls):
    said = ping_over_tls(address="127.0.0.2")
    assert said.endswith(": name the registry as its certificate does, or give it one for this name")


def test_an_authority_that_is_not_known_is_to_be_named(ping_over_tls):
    """So is an intermediate one that the registry does not send: OpenSSL tells the two not apart."""
    said = ping_over_tls(is_known=False)
    assert said.endswith(".ca_file, with any intermediate ones that the registry does not send")
