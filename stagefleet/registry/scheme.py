"""Advice where one side speaks TLS and the other plain HTTP: the setting that mends it, as one writes it."""

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
"""How servers that speak TLS refuse a request without it: with 400, in words, which no standard fixes."""


def advise_tls(host: str) -> str:
    """Say what to set for a registry that is spoken to without TLS and may want it."""
    return f'if it speaks TLS, set plain_http = false under [registries."{host}"] in stagefleet.toml'


def advise_plain_http(host: str) -> str:
    """Say what to set for a registry that is spoken to with TLS and may have none."""
    return f'if it speaks plain HTTP, set plain_http = true under [registries."{host}"] in stagefleet.toml'


def is_refused_as_plain(response: requests.Response, body: bytes) -> bool:
    """Tell whether an answer refuses plain HTTP because its server speaks TLS.

    Args:
        response: The answer, its body read.
        body: The beginning of its body. An answer to HEAD has none, so that its status has to do.
    """
    request: requests.PreparedRequest | None = response.request  # none in an answer that a test has made
    if response.status_code != _BAD_REQUEST or request is None:
        return False
    if urlsplit(str(request.url)).scheme != "http":
        return False
    return request.method == "HEAD" or _REFUSAL.search(body) is not None
