"""Kinds of logins: an operator may change runs and workers, a viewer may only look."""

from __future__ import annotations

import base64
import hmac
from enum import StrEnum
from urllib.parse import urlsplit

from flower.utils.authentication import authenticate
from tornado.httputil import HTTPServerRequest
from tornado.web import decode_signed_value

from stagefleet.setting_types import FlowerSettings

_LOOKING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOKING_PATHS = ("tasks/datatable",)
"""Paths of Flower that are posted to and only read: the table of its page of tasks."""
_COOKIE = "user"
"""The cookie in which Flower keeps the address of a login by OAuth."""


class LoginKind(StrEnum):
    """Kind of a login, by its rights."""

    OPERATOR = "operator"
    VIEWER = "viewer"


class Access:
    """Tell what a request's login may do; whether the login is right, Flower itself checks.

    Who is not known as an operator may only look. Without a login in the settings that is everybody, as at
    Flower's own pages and its API. A login by OAuth (`flower.options.auth`) is an operator's if
    `flower.operators` has its address, or is empty. Flower signs its cookies with `cookie_secret`.
    """

    def __init__(self, settings: FlowerSettings, cookie_secret: str = "") -> None:
        prefix = settings.url_prefix.strip("/")
        self._looking_paths = {f"/{prefix}/{path}" if prefix else f"/{path}" for path in _LOOKING_PATHS}
        self._operators = settings.operators
        self._cookie_secret = cookie_secret
        self._operator = f"{settings.user}:{settings.password.get_secret_value()}" if settings.user else ""
        self._has_login = bool(settings.user) or bool(settings.options.get("auth"))

    def kind_of(self, request: HTTPServerRequest) -> LoginKind:
        """Return what the login of a request may do."""
        if not self._has_login:
            return LoginKind.VIEWER
        if self._operator and not hmac.compare_digest(_login_of(request).encode(), self._operator.encode()):
            return LoginKind.VIEWER
        is_operator = not self._operators or authenticate(self._operators, self._address_of(request))
        return LoginKind.OPERATOR if is_operator else LoginKind.VIEWER

    def _address_of(self, request: HTTPServerRequest) -> str:
        """Return the address of a login by OAuth; "" if there is none."""
        cookie = request.cookies.get(_COOKIE)
        if cookie is None:
            return ""
        found = decode_signed_value(self._cookie_secret, _COOKIE, cookie.value)
        return (found or b"").decode(errors="replace")

    def refuses(self, request: HTTPServerRequest) -> bool:
        """Return True for a request of a viewer that may change something, on any route of the server.

        Without a login Flower refuses such requests itself, and says why.
        """
        method = (request.method or "").upper()
        if method in _LOOKING_METHODS or (method == "POST" and request.path in self._looking_paths):
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
