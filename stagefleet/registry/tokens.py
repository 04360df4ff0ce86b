"""Challenges of a registry's 401, and tokens of its token server."""

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

from stagefleet.credentials import Login
from stagefleet.errors import CredentialsError, RateLimitedError, RegistryUnavailableError
from stagefleet.redaction import remember_secret, words_of
from stagefleet.registry.http.origins import is_loopback, join_url, origin_of
from stagefleet.registry.http.responses import read_all, retry_after_seconds
from stagefleet.registry.http.waits import span_text

# Parser of `WWW-Authenticate`: the challenges of a registry's 401.

_LIMIT_CHARACTERS = 64 * 1024  # more than any HTTP library lets through in one header line

# Possessive quantifiers: the text is untrusted, so no pattern may backtrack. They
# follow single characters alone: after a group, Python before 3.11.5 matches wrongly (python/cpython#106052).
_SEPARATORS = re.compile(r"[ \t,]*+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*)"', re.DOTALL)
_TOKEN68 = re.compile(r"[ \t]++([A-Za-z0-9._~+/-]++=*+)[ \t]*+(?=,|$)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication scheme that a registry offers.

    Scheme and names of parameters are in lower case; the first of a repeated name counts. `token68` is the
    token that replaces parameters in schemes such as `negotiate`.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""


def parse_challenges(header: str) -> list[Challenge]:
    """Parse a `WWW-Authenticate` header of an untrusted server, also several joined by commas, in its order.

    A comma separates both challenges and the parameters of one, so a word is a parameter if `=` and a value
    follow it, and a scheme otherwise. Malformed parts are skipped. Linear in the header's length. Source:
    RFC 9110, sections 11.2 to 11.6.1.
    """
    header = header[:_LIMIT_CHARACTERS]
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    position = _after_separators(header, 0)
    while position < len(header):
        word = _TOKEN.match(header, position)
        if word is None:
            position = _next_element(header, position)
            continue
        equals = _EQUALS.match(header, word.end())
        if equals is not None:
            value, position = _read_value(header, equals.end())
            if value is not None:
                parameters.setdefault(word[0].lower(), value)
            continue
        parameters = {}  # a new dictionary: the previous challenge keeps its own
        token68 = _TOKEN68.match(header, word.end())
        found.append(Challenge(word[0].lower(), parameters, token68[1] if token68 else ""))
        position = _after_separators(header, (token68 or word).end())
    return found


def _read_value(header: str, position: int) -> tuple[str | None, int]:
    """Return the value at `position`, None if there is none, and the position of the next word."""
    quoted = _QUOTED.match(header, position)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1]), _after_separators(header, quoted.end())
    if header.startswith('"', position):
        return None, len(header)  # unclosed: the start of the next word is unknown
    word = _TOKEN.match(header, position)
    if word is None:
        return None, _next_element(header, position)
    return word[0], _after_separators(header, word.end())


def _after_separators(header: str, position: int) -> int:
    match = _SEPARATORS.match(header, position)
    assert match is not None  # it also matches an empty string
    return match.end()


def _next_element(header: str, position: int) -> int:
    comma = header.find(",", position)
    return len(header) if comma < 0 else _after_separators(header, comma)


# Tokens of a registry's token server, with a login or anonymous.
#
# Sources: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 6750.

Send = Callable[[str, str, dict[str, str], bytes | None], requests.Response]
"""Sends one request: method, URL, headers, body. Follows no redirect; raises if the host does not answer."""

_CLIENT_ID = "stagefleet"
_DEFAULT_LIFE_SECONDS = 60.0  # the specification's default
_LONGEST_LIFE_SECONDS = 24 * 3600.0
_ENDLESS_SECONDS = 1e12
_LIMIT_BYTES = 256 * 1024
_SHOWN_CHARACTERS = 200
_MOST_REDIRECTS = 5
_REDIRECTS = {"GET": frozenset({301, 302, 303, 307, 308}), "POST": frozenset({307, 308})}

# Stricter than a URL parser: two parsers that differ over a URL would send the login to two hosts.
_REALM = re.compile(
    r"(?P<scheme>https?)://(?P<host>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"(?:/[!$-\[\]-~]*)?(?:\?[!$-\[\]-~]*)?",
    re.IGNORECASE,
)
_BEARER_TOKEN = re.compile(r"[!-~]{1,65536}")


class RefusedLoginError(CredentialsError):
    """The token server refuses login or scopes; the message is the server's, "" if it sent none."""

    def __init__(self, message: str, *, status: int = requests.codes.unauthorized) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and its life from the moment of the request."""

    value: str = field(repr=False)
    life_seconds: float


@dataclass(frozen=True, slots=True)
class TokenServer:
    """The token server at a realm, of a registry that calls itself `service`, "" if it gave no name."""

    registry: str
    realm: str = field(repr=False)  # its query may hold a secret
    service: str = ""

    @property
    def host(self) -> str:
        """The token server's `host[:port]`; `CredentialsError` if the realm is no absolute HTTP URL."""
        return self._parts()["host"]

    def fetch(self, send: Send, login: Login | None, scopes: tuple[str, ...]) -> Token:
        """Request a token; an anonymous one without a login.

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
        document = _parse(read_all(response, _LIMIT_BYTES))
        self._check_status(response, document, login)
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or _BEARER_TOKEN.fullmatch(value) is None:
            raise CredentialsError(f"{self._name} answered without a token")
        remember_secret(value, passes=True)
        return Token(value, _life_seconds(document, response.headers))

    def _ask(self, send: Send, login: Login | None, scopes: tuple[str, ...]) -> requests.Response:
        query = urlencode([*self._service(), *(("scope", scope) for scope in scopes)])
        separator = "&" if "?" in self.realm else "?"
        headers = {} if login is None else {"Authorization": basic_header(login)}
        url = f"{self.realm}{separator}{query}" if query else self.realm
        return self._follow(send, "GET", url, headers, None)

    def _exchange(self, send: Send, identity_token: str, scopes: tuple[str, ...]) -> requests.Response:
        form = [
            ("grant_type", "refresh_token"),
            *self._service(),
            ("scope", " ".join(scopes)),
            ("client_id", _CLIENT_ID),
            ("refresh_token", identity_token),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._follow(send, "POST", self.realm, headers, urlencode(form).encode())

    def _follow(
        self, send: Send, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> requests.Response:
        """Send a request and follow its redirects; a login stays on the server that was named.

        Without its login a request elsewhere would bring a token that opens too little.
        """
        has_login = body is not None or bool(headers)
        for _ in range(_MOST_REDIRECTS):
            response = send(method, url, headers, body)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS[method] or location is None:
                return response
            read_all(response, _LIMIT_BYTES)
            target = join_url(url, location)
            own, given = origin_of(url), origin_of(target)
            is_from_plain = own.scheme == "http" and not is_loopback(own.host)  # over the network
            if given.scheme != "https" and not (is_loopback(given.host) or is_from_plain):
                raise CredentialsError(
                    f"{self._name} redirects to plain HTTP, which is not safe: give it HTTPS"
                )
            if has_login and not given.has_same_server(own):
                return response
            url = target
        raise CredentialsError(f"{self._name} sends us in circles ({_MOST_REDIRECTS} redirects)")

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
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's numbers
            return
        if status in {400, 401, 403}:
            raise RefusedLoginError(_details(document, login), status=status)
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

    A server may return a cached token, so `issued_at` counts, by the server's own clock. None returns one
    that is over: then the clock of who issued it is another, and tells no age.
    """
    life = document.get("expires_in")
    if isinstance(life, bool) or not isinstance(life, int | float) or not -math.inf < life < math.inf:
        life = _DEFAULT_LIFE_SECONDS
    life = min(max(life, 0.0), _ENDLESS_SECONDS)  # an integer of hundreds of digits is no float
    try:
        issued_at = datetime.fromisoformat(document["issued_at"])
        age = (parsedate_to_datetime(headers["Date"]) - issued_at).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        age = 0.0  # missing, or not comparable
    return min(life - age if 0 < age < life else life, _LONGEST_LIFE_SECONDS)
