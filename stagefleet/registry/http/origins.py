"""API addresses of registries: scheme, host, the aliases of Docker Hub, and the proxies before them."""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import getproxies

import requests
from requests.utils import select_proxy

from stagefleet.errors import RegistryError, SettingsError
from stagefleet.names import Repository
from stagefleet.redaction import host_of
from stagefleet.settings import RegistrySettings, Settings

_HUB = "docker.io"
HUB_API = "registry-1.docker.io"
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Stricter than a URL parser, and without user names: two parsers that differ over a URL (`http://a\@b/`)
# would take one host for the registry and connect to another.
_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?#][!-~]*)?",
    re.IGNORECASE,
)
_TO_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+")  # nearly each path is another one


class Origin(NamedTuple):
    """Scheme, host and port of a URL (RFC 6454, section 4); a login is for one origin.

    Scheme and host are in lower case; the port is the scheme's default if the URL names none, 0 for an
    unknown scheme.
    """

    scheme: str
    host: str
    port: int

    @property
    def is_default(self) -> bool:
        """True if the port is the scheme's default."""
        return self.port == _DEFAULT_PORTS.get(self.scheme)

    def has_same_server(self, other: Origin) -> bool:
        """Return True if host and port are the same; the ports also if each is its scheme's default."""
        is_same_port = self.port == other.port or (self.is_default and other.is_default)
        return self.host == other.host and is_same_port


def origin_of(url: str) -> Origin:
    """Return the origin of a URL made by `join_url` or `base_url`."""
    found = _TO_AUTHORITY.match(url)
    return _read_origin(url if found is None else found[0])


@lru_cache(maxsize=1024)
def _read_origin(url: str) -> Origin:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return Origin(scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(scheme, 0))


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return True if `host[:port]` is this machine: `localhost`, 127.0.0.0/8 or [::1]."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    address = ip_address_of(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def ip_address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a host is named by; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def base_url(host: str, settings: Settings) -> str:
    """Return the URL of a registry without a path; loopback hosts default to HTTP, all others to HTTPS."""
    said = settings.registry(host).plain_http
    plain = is_loopback(host) if said is None else said
    return f"{'http' if plain else 'https'}://{HUB_API if host == _HUB else host}"


def settings_of(api_host: str, settings: Settings) -> RegistrySettings:
    """Return the settings for an API host; Docker Hub's are under its name in repositories."""
    if api_host == HUB_API and api_host not in settings.registries:
        return settings.registry(_HUB)
    return settings.registry(api_host)


def join_url(url: str, given: str) -> str:
    """Resolve a URL, relative or absolute, from the `Location` or `Link` of a registry's response to `url`.

    Spaces are escaped, as browsers do: some stores send the names of files as they are.
    `RegistryError` if it is malformed; the message does not quote it, for it may hold a signature.
    """
    try:
        joined = urljoin(url, given).replace(" ", "%20")
        is_usable = _URL.fullmatch(joined) is not None and urlsplit(joined).port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise RegistryError(f"{urlsplit(url).netloc} points to an address that is none")
    return joined


def in_own_scheme(url: str, base: str) -> str:
    """Return a URL in the scheme of the registry at `base`, if it is the registry's own in another.

    Behind a proxy that terminates TLS a registry may not know its own scheme.
    """
    return moved_to(base, url) if origin_of(url).has_same_server(origin_of(base)) else url


def moved_to(base: str, url: str) -> str:
    """Return a URL at the origin of another one."""
    scheme, netloc = urlsplit(base)[:2]
    return urlunsplit(urlsplit(url)._replace(scheme=scheme, netloc=netloc))


def api_path(repository: Repository) -> str:
    """Return the repository's path in API URLs; Docker Hub's official images are under `library/`."""
    if repository.host == _HUB and "/" not in repository.path:
        return f"library/{repository.path}"
    return repository.path


# Advice for a mismatch of TLS and plain HTTP: the setting to change, ready to paste.

_BAD_REQUEST = 400
_REFUSAL = re.compile(
    rb"HTTP request to an HTTPS server"  # Go's server: distribution, Harbor, zot
    rb"|HTTP request was sent to HTTPS port"  # nginx
    rb"|speaking plain HTTP to an SSL-enabled server"  # Apache
)
"""Replies of TLS servers to plain HTTP: status 400 with a text that no standard defines."""


def advise_tls(host: str) -> str:
    """Return the setting for a registry that is reached by plain HTTP and may need TLS."""
    return f'if it speaks TLS, set plain_http = false under [registries."{host}"] in stagefleet.toml'


def advise_plain_http(host: str) -> str:
    """Return the setting for a registry that is reached by TLS and may not offer it."""
    return f'if it speaks plain HTTP, set plain_http = true under [registries."{host}"] in stagefleet.toml'


def is_refused_as_plain(response: requests.Response, body: bytes) -> bool:
    """Return True if a response refuses plain HTTP because its server speaks TLS.

    `body` is the beginning of its body. A response to HEAD has none, so its status decides.
    """
    request: requests.PreparedRequest | None = response.request  # None in a response built by a test
    if response.status_code != _BAD_REQUEST or request is None:
        return False
    if urlsplit(str(request.url)).scheme != "http":
        return False
    return request.method == "HEAD" or _REFUSAL.search(body) is not None


# Proxies of the environment, and the hosts that need none, as Go's tools read them.
#
# Source: golang.org/x/net/http/httpproxy, `Config`. docker, crane and skopeo read `NO_PROXY` by it; requests
# knows no `*.example.com`, and takes `example.com` for the end of any name.


def proxies_of(origin: str) -> dict[str, str]:
    """Read the proxies for an origin, `scheme://host[:port]`, from the environment; none for loopback hosts.

    `SettingsError` if the address of the proxy cannot be read, or is that of a SOCKS proxy.
    """
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if is_loopback(urlsplit(origin).netloc) or _needs_none(origin, no_proxy):
        return {}
    proxies = getproxies()
    proxy = select_proxy(origin, proxies)
    if not proxy:
        return proxies
    address = proxy if "://" in proxy else f"http://{proxy}"
    if host_of(address) == "...":
        raise SettingsError(
            f"the proxy for {host_of(origin)} in the environment has no address that can be read: write "
            "http://USER:PASSWORD@HOST:PORT, and in user and password each of / ? # @ : % as %2F %3F %23 %40 "
            "%3A %25"
        )
    if address.partition("://")[0].lower() not in _DEFAULT_PORTS:
        raise SettingsError(
            f"the proxy for {host_of(origin)} in the environment is no HTTP proxy: SOCKS is not supported; "
            "name an HTTP proxy in HTTPS_PROXY, or the host in NO_PROXY"
        )
    return proxies


def _needs_none(origin: str, no_proxy: str) -> bool:
    """Return True if an entry of `NO_PROXY` stands for the host: a name, an address, a network, or `*`."""
    _, host, port = origin_of(origin)
    name = host.rstrip(".").lower()
    return any(_matches(entry.strip().lower(), name, port) for entry in no_proxy.split(","))


def _matches(entry: str, name: str, port: int) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):
        network = ipaddress.ip_network(entry, strict=False)
        address = ip_address_of(name)
        return address is not None and address in network
    host, colon, wanted = entry.rpartition(":")
    if not (colon and wanted.isdigit() and (host.endswith("]") or ":" not in host)):
        host, wanted = entry, ""  # it names no port
    if not host or (wanted and wanted != str(port)):
        return False
    named = ip_address_of(host.strip("[]"))
    if named is not None:
        return named == ip_address_of(name)
    if host.startswith("*."):
        host = host[1:]
    if host.startswith("."):
        return name.endswith(host)  # subdomains alone
    return name == host or name.endswith(f".{host}")
