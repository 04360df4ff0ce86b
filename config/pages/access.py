"""Kinds of logins: an operator may change runs and workers, a viewer may only look."""

from __future__ import annotations

import base64
import hmac
from enum import StrEnum
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from stagefleet.setting_types import FlowerSettings

_LOOKING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOKING_PATHS = ("/tasks/datatable",)
"""Paths of Flower that are posted to and only read: the table of its page of tasks."""


class LoginKind(StrEnum):
    """Kind of a login, by its rights."""

    OPERATOR = "operator"
    VIEWER = "viewer"


class Access:
    """Tell what a request's login may do; whether the login is right, Flower itself checks.

    Who is not known as an operator may only look. Without a login in the settings that is everybody, as at
    Flower's own pages and its API. A login that Flower has from elsewhere (`flower.options.auth`) is an
    operator's.
    """

    def __init__(self, settings: FlowerSettings) -> None:
        self._operator = f"{settings.user}:{settings.password.get_secret_value()}" if settings.user else ""
        self._has_login = bool(settings.user) or bool(settings.options.get("auth"))

    def kind_of(self, request: HTTPServerRequest) -> LoginKind:
        """Return what the login of a request may do."""
        if not self._has_login:
            return LoginKind.VIEWER
        if not self._operator or hmac.compare_digest(_login_of(request).encode(), self._operator.encode()):
            return LoginKind.OPERATOR
        return LoginKind.VIEWER

    def refuses(self, request: HTTPServerRequest) -> bool:
        """Return True for a request of a viewer that may change something, on any route of the server.

        Without a login Flower refuses such requests itself, and says why.
        """
        method = (request.method or "").upper()
        if method in _LOOKING_METHODS or (method == "POST" and request.path.endswith(_LOOKING_PATHS)):
            return False
        return self._has_login and self.kind_of(request) is LoginKind.VIEWER


def is_same_origin(request: HTTPServerRequest) -> bool:
    """Return False for a request that a browser sends on behalf of another site.

    Browsers say so in `Sec-Fetch-Site` (W3C Fetch Metadata) or in `Origin` (RFC 6454); other programs send
    neither.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _login_of(request: HTTPServerRequest) -> str:
    """Return the `USER:PASSWORD` of a request, read as Flower reads it; "" if it has none."""
    try:
        scheme, encoded = request.headers.get("Authorization", "").split()
        return base64.b64decode(encoded).decode() if scheme == "Basic" else ""
    except ValueError:  # binascii's and the codec's, too
        return ""
