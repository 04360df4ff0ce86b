"""A certificate authority of the tests' own, with a server's and a client's certificate."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    age: timedelta = timedelta(0),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC) - age
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Tls:
    """PEM files: an authority, a server's certificate for 127.0.0.1, ::1 and localhost, a client's.

    Args:
        age: How long ago the server's and the client's certificates were made, for 30 days.
        address: What they have in the place of 127.0.0.1.

    Attributes:
        ca_file: The authority's certificate, to be trusted.
        server_certificate: The server's certificate.
        server_key: Its key.
        client_certificate: A client's certificate.
        client_key: Its key.
    """

    def __init__(self, folder: Path, *, age: timedelta = timedelta(0), address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True)
        self._age, self._address = age, address
        self.ca_file = folder / "ca.pem"
        self.server_certificate, self.server_key = folder / "server.pem", folder / "server.key"
        self.client_certificate, self.client_key = folder / "client.pem", folder / "client.key"
        self._authority = ec.generate_private_key(ec.SECP256R1())
        self._issuer = _name("Stagefleet's tests")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        authority = (
            _builder("Stagefleet's tests", self._authority, self._issuer, self._authority)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._authority, hashes.SHA256())
        )
        self.ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self._issue("localhost", self.server_certificate, self.server_key, ExtendedKeyUsageOID.SERVER_AUTH)
        self._issue("client", self.client_certificate, self.client_key, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, common_name: str, certificate: Path, key_file: Path, usage: x509.ObjectIdentifier
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address(self._address)),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ]
        )
        signed = (
            _builder(common_name, key, self._issuer, self._authority, self._age)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(names, critical=False)
            .sign(self._authority, hashes.SHA256())
        )
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        _write_key(key_file, key)
