"""Tokens of a registry's token server, with a login or anonymous.

Sources: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 6750.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import requests

from stagefleet.errors import CredentialsError, RateLimitedError, RegistryUnavailableError
from stagefleet.redaction import remember_secret, words_of
from stagefleet.registry.docker_config import Login
from stagefleet.registry.hosts import is_loopback
from stagefleet.registry.response_body import read_all
from stagefleet.registry.retry_after import retry_after_seconds, span_text

__all__ = ["RefusedLoginError", "Send", "Token", "TokenServer", "basic_header"]

Send = Callable[[str, str, dict[str, str], bytes | None], requests.Response]
"""Sends one request: method, URL, headers, body. Follows no redirect; raises if the host does not answer."""

_CLIENT_ID = "stagefleet"
_DEFAULT_LIFE_SECONDS = 60.0  # the specification's default
_LONGEST_LIFE_SECONDS = 24 * 3600.0
_ENDLESS_SECONDS = 1e12
_LIMIT_BYTES = 256 * 1024
_SHOWN_CHARACTERS = 200

# Stricter than a URL parser: two parsers that differ over a URL would send the login to two hosts.
_REALM = re.compile(
    r"(?P<scheme>https?)://(?P<host>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"(?:/[!$-\[\]-~]*)?(?:\?[!$-\[\]-~]*)?",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[!-~]{1,65536}")


class RefusedLoginError(CredentialsError):
    """The token server refuses the login; the message is the server's, "" if it sent none."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token from a token server.

    Attributes:
        value: The token to send.
        life_seconds: Lifetime, from the moment of the request.
    """

    value: str = field(repr=False)
    life_seconds: float


@dataclass(frozen=True, slots=True)
class TokenServer:
    """The token server of a registry.

    Args:
        registry: The registry's `host[:port]`, for messages.
        realm: The server's URL, from the registry's challenge.
        service: The registry's own name, "" if it gave none.
    """

    registry: str
    realm: str = field(repr=False)  # its query may hold a secret
    service: str = ""

    @property
    def host(self) -> str:
        """The token server's `host[:port]`.

        Raises:
            CredentialsError: The realm is no absolute HTTP URL.
        """
        return self._parts()["host"]

    def fetch(self, send: Send, login: Login | None, scopes: tuple[str, ...]) -> Token:
        """Request a token.

        Args:
            send: Sends the request.
            login: The login; None for an anonymous token.
            scopes: The scopes that the token has to allow.

        Raises:
            RefusedLoginError: The server refuses the login, or requires one.
            CredentialsError: The realm is malformed or not safe for a login, or the response holds no token.
            RegistryUnavailableError: The server fails with a 5xx.
            RateLimitedError: The server limits the rate.
        """
        self._check(login)
        if login is not None and login.identity_token:
            response = self._exchange(send, login.identity_token, scopes)
        else:
            response = self._ask(send, login, scopes)
        content = read_all(response, _LIMIT_BYTES)
        document = _parse(content)
        self._check_status(response, document, login)
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
            raise CredentialsError(f"{self._name} answered without a token")
        remember_secret(value, passes=True)
        return Token(value, _life_seconds(document, response.headers))

    def _ask(self, send: Send, login: Login | None, scopes: tuple[str, ...]) -> requests.Response:
        query = urlencode([*self._service(), *(("scope", scope) for scope in scopes)])
        separator = "&" if "?" in self.realm else "?"
        headers = {} if login is None else {"Authorization": basic_header(login)}
        return send("GET", f"{self.realm}{separator}{query}" if query else self.realm, headers, None)

    def _exchange(self, send: Send, identity_token: str, scopes: tuple[str, ...]) -> requests.Response:
        form = [
            ("grant_type", "refresh_token"),
            *self._service(),
            ("scope", " ".join(scopes)),
            ("client_id", _CLIENT_ID),
            ("refresh_token", identity_token),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return send("POST", self.realm, headers, urlencode(form).encode())

    def _service(self) -> list[tuple[str, str]]:
        return [("service", self.service)] if self.service else []

    def _check(self, login: Login | None) -> None:
        parts = self._parts()
        if login is not None and parts["scheme"].lower() != "https" and not is_loopback(parts["host"]):
            raise CredentialsError(
                f"registry {self.registry} wants the login sent to http://{parts['host']} without TLS, "
                "which is not done: give its token server HTTPS"
            )

    def _parts(self) -> dict[str, str]:
        match = _REALM.fullmatch(self.realm)
        if match is None:
            raise CredentialsError(
                f"registry {self.registry} names no usable token server: its realm is no absolute URL"
            )
        return match.groupdict()

    def _check_status(
        self, response: requests.Response, document: Mapping[str, Any], login: Login | None
    ) -> None:
        status = response.status_code
        if status == requests.codes.ok:
            return
        if status in {400, 401, 403}:
            raise RefusedLoginError(_details(document, login))
        message = f"{self._name} answered {status}"
        if status != requests.codes.too_many and status < requests.codes.server_error:
            raise CredentialsError(message)
        seconds = retry_after_seconds(response.headers)
        if seconds is not None:
            message = f"{message}, and asks to wait {span_text(seconds)}"
        kind = RateLimitedError if status == requests.codes.too_many else RegistryUnavailableError
        raise kind(message, method="GET", status=status, retry_after_seconds=seconds)

    @property
    def _name(self) -> str:
        return f"the token server {self.host} of registry {self.registry}"


def basic_header(login: Login) -> str:
    """Build the Authorization header for a user name and password (RFC 7617)."""
    pair = f"{login.username}:{login.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _parse(content: bytes | None) -> Mapping[str, Any]:
    """Parse the response as a JSON object; an empty one if it is none."""
    try:
        document = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _details(document: Mapping[str, Any], login: Login | None) -> str:
    """Return the server's reason for a refusal, on one line; "" if it repeats a secret."""
    text = document.get("details")
    if not isinstance(text, str):
        return ""
    if login is not None:
        secrets = (login.password, login.identity_token, basic_header(login).removeprefix("Basic "))
        if any(secret and secret in text for secret in secrets):
            return ""
    return words_of(text, limit=_SHOWN_CHARACTERS)


def _life_seconds(document: Mapping[str, Any], headers: Mapping[str, str]) -> float:
    """Compute how much longer a token is valid.

    A server may return a cached token, so `issued_at` counts, by the server's own clock.
    """
    life = document.get("expires_in")
    if isinstance(life, bool) or not isinstance(life, int | float):
        life = _DEFAULT_LIFE_SECONDS
    if isinstance(life, float) and not math.isfinite(life):
        life = _DEFAULT_LIFE_SECONDS
    life = min(max(life, 0.0), _ENDLESS_SECONDS)  # an integer of hundreds of digits is no float
    age = 0.0
    try:
        issued_at = datetime.fromisoformat(document["issued_at"])
        age = (parsedate_to_datetime(headers["Date"]) - issued_at).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        age = 0.0  # missing, or not comparable
    return min(max(life - max(age, 0.0), 0.0), _LONGEST_LIFE_SECONDS)
