"""Advice for a mismatch of TLS and plain HTTP: the setting to change, ready to paste."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import requests

__all__ = ["advise_plain_http", "advise_tls", "is_refused_as_plain"]

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

    Args:
        response: The response, its body read.
        body: The beginning of its body. A response to HEAD has none, so its status decides.
    """
    request: requests.PreparedRequest | None = response.request  # None in a response built by a test
    if response.status_code != _BAD_REQUEST or request is None:
        return False
    if urlsplit(str(request.url)).scheme != "http":
        return False
    return request.method == "HEAD" or _REFUSAL.search(body) is not None
