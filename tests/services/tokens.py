"""A token server, after distribution's "Token Authentication" and "OAuth2 Token Authentication"."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

import jwt
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_ISSUER = "stagefleet-tests"
_LEEWAY_SECONDS = 60  # distribution accepts a token for so long after its end
_ALL_ACTIONS = ("pull", "push", "delete")
_REPOSITORY = "/v2/(.+)/(?:manifests|blobs|tags)/"


class Grant(NamedTuple):
    """A token that was given: to whom (an empty string where no login was sent), and the scopes asked for."""

    account: str
    scopes: tuple[str, ...]


class _ScopedAuth(requests.auth.AuthBase):
    """Sends a token of its own for the repository of each request."""

    def __init__(self, server: TokenServer) -> None:
        self._server = server

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        match = re.search(_REPOSITORY, str(request.url))
        scopes = [f"repository:{match[1]}:pull,push,delete"] if match else []
        request.headers["Authorization"] = f"Bearer {self._server.mint(scopes, lifetime_seconds=3600)}"
        return request


class TokenServer:
    """Gives tokens that registries with its `configuration` accept.

    Attributes:
        service: The service that its tokens are for.
        lifetime_seconds: Of the tokens from now on; whole seconds count.
        refused_actions: What no token allows from now on, such as "push".
        unknown_actions: What it answers 400 to from now on, such as "delete"; `*` stands for all actions.
        refresh_tokens: Accounts by identity token.
        grants: The tokens given over HTTP.
    """

    def __init__(self, folder: Path, *, users: Mapping[str, str] | None = None) -> None:
        """Prepare a server; `start` starts it.

        Args:
            folder: For the certificate of its key, made if need be.
            users: Passwords by user; None lets everybody in.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.service = "stagefleet-tests-registry"
        self.lifetime_seconds: float = 300
        self.refused_actions: set[str] = set()
        self.unknown_actions: set[str] = set()
        self.refresh_tokens: dict[str, str] = {}
        self.grants: list[Grant] = []
        self._users = users
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = _certificate_of(self._key)
        self._bundle = folder / "tokens.pem"
        self._bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"tokens": self}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="tokens", daemon=True
        )

    def start(self) -> Self:
        """Start it; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    @property
    def realm(self) -> str:
        """Where clients ask for tokens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def issued(self) -> list[tuple[str, ...]]:
        """The scopes of each token given over HTTP, as they were asked for."""
        return [grant.scopes for grant in self.grants]

    def configuration(self) -> dict[str, Any]:
        """The section of a registry's configuration that makes it want these tokens."""
        return {
            "realm": self.realm,
            "service": self.service,
            "issuer": _ISSUER,
            "rootcertbundle": str(self._bundle),
        }

    def bearer_for_all(self) -> requests.auth.AuthBase:
        """A login that may do everything, for what tests prepare; its tokens are not in `grants`."""
        return _ScopedAuth(self)

    def mint(self, scopes: Sequence[str], *, account: str = "", lifetime_seconds: float | None = None) -> str:
        """Make a token without asking over HTTP.

        Args:
            scopes: `repository:PATH:ACTION,...` each.
            account: Whose it is.
            lifetime_seconds: How long it is good; the server's own by default.
        """
        now = time.time()
        lifetime = self.lifetime_seconds if lifetime_seconds is None else lifetime_seconds
        claims = {
            "iss": _ISSUER,
            "sub": account,
            "aud": self.service,
            "iat": int(now),
            "nbf": int(now) - _LEEWAY_SECONDS,
            "exp": int(now + lifetime) - _LEEWAY_SECONDS,
            "jti": secrets.token_hex(8),
            "access": [self._allow(scope) for scope in scopes],
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"x5c": self._chain})

    def grant(self, account: str, scopes: Sequence[str]) -> dict[str, Any]:
        """Give a token; returns the document of the answer."""
        document = {
            "access_token": self.mint(scopes, account=account),
            "expires_in": int(self.lifetime_seconds),
            "issued_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.grants.append(Grant(account, tuple(scopes)))
        return document

    def knows(self, scopes: Sequence[str]) -> bool:
        """Return True if no scope has an action that this server does not know."""
        actions = {action for scope in scopes for action in scope.rpartition(":")[2].split(",")}
        return not actions & self.unknown_actions

    def account_of(self, user: str, password: str) -> str | None:
        """Whose login it is, None for a wrong one; without users everybody's is right."""
        if self._users is None:
            return user
        return user if user in self._users and self._users[user] == password else None

    def new_refresh_token(self, account: str) -> str:
        """An identity token for an account."""
        token = secrets.token_hex(16)
        self.refresh_tokens[token] = account
        return token

    def _allow(self, scope: str) -> dict[str, Any]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        asked = _ALL_ACTIONS if actions == "*" else actions.split(",")
        allowed = [action for action in asked if action not in self.refused_actions]
        return {"type": kind, "name": name, "actions": allowed}


class _Handler(BaseHTTPRequestHandler):
    tokens: TokenServer

    def do_GET(self) -> None:
        """Token Authentication Specification, "Requesting a Token"."""
        query = parse_qs(urlsplit(self.path).query)
        account = self.tokens.account_of(*_basic_login(self.headers["Authorization"]))
        if account is None:
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]})
            return
        if not self.tokens.knows(_scopes(query)):
            self._answer(400, {"errors": [{"code": "DENIED", "message": "invalid scope"}]})
            return
        document = self.tokens.grant(account, _scopes(query))
        document["token"] = document["access_token"]
        if query.get("offline_token") == ["true"]:
            document["refresh_token"] = self.tokens.new_refresh_token(account)
        self._answer(200, document)

    def do_POST(self) -> None:
        """OAuth2 Token Authentication, "POST /token"."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode())
        field = {name: values[0] for name, values in form.items()}
        account = None
        if field.get("grant_type") == "refresh_token":
            account = self.tokens.refresh_tokens.get(field.get("refresh_token", ""))
        elif field.get("grant_type") == "password":
            account = self.tokens.account_of(field.get("username", ""), field.get("password", ""))
        if account is None:
            self._answer(400, {"error": "invalid_grant"})  # RFC 6749, 5.2
            return
        if not self.tokens.knows(_scopes(form)):
            self._answer(400, {"error": "invalid_scope"})  # RFC 6749, 5.2
            return
        document = self.tokens.grant(account, _scopes(form))
        if field.get("access_type") == "offline":
            document["refresh_token"] = self.tokens.new_refresh_token(account)
        self._answer(200, document)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _basic_login(header: str | None) -> tuple[str, str]:
    encoded = (header or "").removeprefix("Basic ")
    user, _, password = base64.b64decode(encoded).decode().partition(":")
    return user, password


def _scopes(fields: Mapping[str, Sequence[str]]) -> list[str]:
    """Several fields, or one with blanks between (RFC 6749, 3.3): clients do both."""
    return [scope for text in fields.get("scope", []) for scope in text.split()]


def _certificate_of(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
