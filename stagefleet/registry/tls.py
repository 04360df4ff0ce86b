"""TLS contexts from a registry's settings: trusted certificates and client certificates, read once per host.

Without a `ca_file` the system's certificates count, as for curl, Docker and every other container tool;
requests itself would use its bundled list, which lacks a company's own authority.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from stagefleet.errors import SettingsError
from stagefleet.registry.sockets import TlsSocket
from stagefleet.settings import RegistrySettings

__all__ = ["make_context"]

_SYSTEM = "the list of the system's certificates"


def make_context(host: str, registry: RegistrySettings) -> ssl.SSLContext:
    """Create the TLS context for a registry.

    Args:
        host: The registry's `host[:port]`, for messages.
        registry: Its settings.

    Raises:
        SettingsError: A file from the settings cannot be used; names file and key.
    """
    try:
        context = ssl.create_default_context(cafile=registry.ca_file or _roots())
    except OSError as error:  # an ssl.SSLError is one
        raise _unusable(host, "ca_file", registry.ca_file, error) from error
    context.sslsocket_class = TlsSocket
    if registry.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if registry.client_certificate is not None:
        _show_certificate(context, host, registry.client_certificate, registry.client_key)
    return context


def _roots() -> str | None:
    """Return the default file of trusted certificates; None for the system's.

    OpenSSL finds the system's itself, SSL_CERT_FILE and SSL_CERT_DIR included. A minimal container may have
    none: then the list bundled with requests is better than no registry.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return None
    return DEFAULT_CA_BUNDLE_PATH


def _show_certificate(context: ssl.SSLContext, host: str, certificate: Path, key: Path | None) -> None:
    def refuse() -> str:
        raise _unusable(host, "client_key", key or certificate, "its key is encrypted")

    try:
        # Without a callback OpenSSL asks for a password on the terminal, and a worker would hang.
        context.load_cert_chain(certificate, key, password=refuse)
    except OSError as error:
        raise _unusable(host, "client_certificate", certificate, error) from error


def _unusable(host: str, key: str, file: Path | None, reason: OSError | str) -> SettingsError:
    if isinstance(reason, ssl.SSLError):
        reason = reason.reason or "no PEM"
    elif isinstance(reason, OSError):
        reason = reason.strerror or type(reason).__name__
    return SettingsError(f'registries."{host}".{key}: {file or _SYSTEM} cannot be used ({reason})')
