"""Where a registry's API is: scheme, host and the name that Docker Hub goes by."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from stagefleet.names import Repository
from stagefleet.settings import Settings

__all__ = ["api_path", "base_url", "is_loopback"]

_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is this machine: `localhost`, 127.0.0.0/8 or [::1]."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def base_url(host: str, settings: Settings) -> str:
    """The URL of a registry without a path: HTTPS, for loopback hosts HTTP, unless the settings say so."""
    said = settings.registry(host).plain_http
    plain = is_loopback(host) if said is None else said
    return f"{'http' if plain else 'https'}://{_HUB_API if host == _HUB else host}"


def api_path(repository: Repository) -> str:
    """The repository's name in requests; Docker Hub's official images live under `library/`."""
    if repository.host == _HUB and "/" not in repository.path:
        return f"library/{repository.path}"
    return repository.path
