"""Proxies of the environment, and the hosts that need none, as Go's tools read them.

Source: golang.org/x/net/http/httpproxy, `Config`. docker, crane and skopeo read `NO_PROXY` by it; requests
knows no `*.example.com`, and takes `example.com` for the end of any name.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import getproxies

from requests.utils import select_proxy

from stagefleet.errors import SettingsError
from stagefleet.redaction import host_of
from stagefleet.registry.http.hosts import is_loopback, origin_of

_SCHEMES = frozenset({"http", "https"})


def proxies_of(origin: str) -> dict[str, str]:
    """Read the proxies for an origin, `scheme://host[:port]`, from the environment; none for loopback hosts.

    `SettingsError` if the address of the proxy cannot be read, or is that of a SOCKS proxy.
    """
    if is_loopback(urlsplit(origin).netloc) or _needs_none(origin, _no_proxy()):
        return {}
    proxies = getproxies()
    proxy = select_proxy(origin, proxies)
    if not proxy:
        return proxies
    if host_of(proxy if "://" in proxy else f"http://{proxy}") == "...":
        raise SettingsError(
            f"the proxy for {host_of(origin)} in the environment has no address that can be read: write "
            "http://USER:PASSWORD@HOST:PORT, and in user and password each of / ? # @ : % as %2F %3F %23 %40 "
            "%3A %25"
        )
    scheme = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"the proxy for {host_of(origin)} in the environment is no HTTP proxy: SOCKS is not supported; "
            "name an HTTP proxy in HTTPS_PROXY, or the host in NO_PROXY"
        )
    return proxies


def _no_proxy() -> str:
    return os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""


def _needs_none(origin: str, no_proxy: str) -> bool:
    """Return True if an entry of `NO_PROXY` stands for the host: a name, an address, a network, or `*`."""
    _, host, port = origin_of(origin)
    name = host.rstrip(".").lower()
    return any(_matches(entry.strip().lower(), name, port) for entry in no_proxy.split(","))


def _matches(entry: str, name: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    else:
        address = _address(name)
        return address is not None and address in network
    host, wanted = _split_port(entry)
    if not host or (wanted and wanted != str(port)):
        return False
    if _address(host.strip("[]")) is not None:
        return _address(host.strip("[]")) == _address(name)
    if host.startswith("*."):
        host = host[1:]
    if host.startswith("."):
        return name.endswith(host)  # subdomains alone
    return name == host or name.endswith(f".{host}")


def _split_port(entry: str) -> tuple[str, str]:
    host, colon, port = entry.rpartition(":")
    return (
        (host, port) if colon and port.isdigit() and (host.endswith("]") or ":" not in host) else (entry, "")
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
