"""Logins of the Docker configuration file and its credential helpers, as all container tools use them.

docker-py reads the same file, but only once, runs helpers without a time-out, and quotes file content in its
errors. Format: docker/cli, cli/config/configfile.
"""

from __future__ import annotations

import base64
import codecs
import json
import os
import re
import selectors
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagefleet.errors import CredentialsError
from stagefleet.leases import SLICE_SECONDS, current_lease
from stagefleet.redaction import quoted, remember_secret

# Credential helpers: external programs that store logins, called as Docker calls them.
#
# Protocol: docker/docker-credential-helpers, "Development". `docker-credential-NAME get` reads the registry's
# address on stdin and writes `{"ServerURL", "Username", "Secret"}`.

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OUR_PREFIX = "STAGEFLEET_"
"""Prefix of our own environment variables, secrets among them, which a helper does not get."""
_ANSWER_BYTES = 1024 * 1024
_NOT_FOUND = b"credentials not found"  # all helpers' message starts so, with exit code 1


class HelperError(CredentialsError):
    """A credential helper is missing or fails."""


def ask_helper(name: str, address: str, *, timeout_seconds: float) -> tuple[str, str] | None:
    """Ask a helper for the user name and secret of a login; None if it has none for the address.

    Raises `HelperError`, which never quotes the helper's output: it may hold a secret. After the
    time-out the helper is killed with its child processes.
    """
    if _NAME.fullmatch(name) is None:
        raise HelperError(f"{quoted(name)} is no name of a credential helper")
    program = f"docker-credential-{name}"
    returncode, output = _run(program, address, timeout_seconds)
    if returncode != 0:
        if _NOT_FOUND in output:
            return None
        raise HelperError(
            f"the credential helper {program} failed with exit code {returncode}; "
            f"to see why, run: echo {address} | {program} get"
        )
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        answer = {name.lower(): value for name, value in answer.items()}  # as Go reads its names
        username, secret = answer.get("username"), answer.get("secret")
        if isinstance(username, str) and isinstance(secret, str):
            return (username, secret) if secret else None
    raise HelperError(f"the credential helper {program} answers without Username and Secret")


def _run(program: str, address: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Run a helper in its own process group, so that its children end with it."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own file names it, `_NAME` has seen it
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A helper needs PATH, HOME and what its cloud asks for, but no secret of ours.
            env={name: text for name, text in os.environ.items() if not name.startswith(_OUR_PREFIX)},
            process_group=0,
        )
    except OSError as error:
        raise HelperError(
            f"the credential helper {program} cannot be started ({error.strerror}): "
            "install it, or take it out of the Docker configuration file"
        ) from None
    with process:
        try:
            output = _answer(process, address, timeout_seconds)
            if len(output) > _ANSWER_BYTES:
                raise HelperError(
                    f"the credential helper {program} prints more than {_ANSWER_BYTES:,} bytes, which is no "
                    f"login; to see what, run: echo {address} | {program} get | head"
                )
        except TimeoutError:
            raise HelperError(
                f"the credential helper {program} did not answer in {timeout_seconds:g} s"
            ) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def _answer(process: subprocess.Popen[bytes], address: str, timeout_seconds: float) -> bytes:
    """Return the helper's output when it has ended, or as soon as it is more than an answer may be."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError), process.stdin as question:
        question.write(address.encode())  # every pipe has room for an address: nobody is waited for
    waits, output = _waits(timeout_seconds), b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= _ANSWER_BYTES:
            if selector.select(next(waits)):
                piece = os.read(process.stdout.fileno(), _ANSWER_BYTES)
                if not piece:
                    break
                output += piece
    while len(output) <= _ANSWER_BYTES and process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(next(waits))
    return output


def _waits(timeout_seconds: float) -> Iterator[float]:
    """Yield the seconds of short waits under this thread's lease, and raise `TimeoutError` at the end."""
    lease, ends_at = current_lease(), time.monotonic() + timeout_seconds
    while (left := ends_at - time.monotonic()) > 0:
        lease.check()
        yield min(left, SLICE_SECONDS)
    raise TimeoutError


_HELPER_TIMEOUT_SECONDS = 30.0  # some helpers ask a cloud
_LIMIT_BYTES = 4 * 1024 * 1024

_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_KEY = "https://index.docker.io/v1/"
_KEY = re.compile(r"(?:https?://)?([^/]+)(?:/|/v[12]/?)?", re.IGNORECASE)
_NAMESPACE_KEY = re.compile(r"(?:https?://)?([^/]+)/(.+?)/?", re.IGNORECASE)
"""A key of Podman's and GitLab's: its login is for the repositories below that path alone."""
_URL_LETTERS = str.maketrans("-_", "+/")
_IDENTITY_USER = "<token>"  # a helper's mark that the secret is an identity token


@dataclass(frozen=True, slots=True)
class Login:
    """The login for a registry: a name and a password, or an identity token, an OAuth 2 refresh token."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


class DockerConfig:
    """The Docker configuration file: read when a login is needed, and again after a change.

    Thread-safe. Without the file there are no logins. Helpers are called each time: their logins may expire
    within hours.
    """

    def __init__(self, path: Path, *, helper_timeout_seconds: float = _HELPER_TIMEOUT_SECONDS) -> None:
        self._path = path
        self._helper_timeout_seconds = helper_timeout_seconds
        self._lock = threading.Lock()
        self._version: tuple[int, int, int] | None = None
        self._document: Mapping[str, Any] = {}
        self._problem = ""

    def login(self, host: str, path: str = "") -> Login | None:
        """Return the login for a repository, or for a registry, and register its secrets for masking.

        `HelperError` if there may be one, and its helper cannot tell.
        """
        try:
            login = self._find(host, path)
        except HelperError as error:
            self._problem = f"; {error}"
            raise
        self._problem = ""
        if login is not None:
            remember_secret(login.password, login.identity_token)
        return login

    def namespace(self, host: str, path: str) -> str:
        """Return the longest key of a namespace that holds a repository, "" if none does."""
        found = [
            (len(namespace), key)
            for key, namespace in _namespaces(self._section(self._read(), "auths"), host)
            if f"{path}/".startswith(f"{namespace}/")
        ]
        return max(found, default=(0, ""))[1]

    def _find(self, host: str, path: str) -> Login | None:
        """Find the login for a repository.

        It is from its registry's own helper, else its namespace's entry, else the default helper, else the
        registry's entry. Errors name the file and the key, and quote no content.
        """
        document = self._read()
        logins = self._section(document, "auths")
        key = _find_key(logins, host)
        namespace = self.namespace(host, path)
        if namespace and _find_key(self._section(document, "credHelpers"), host) is None:
            return self._stored(namespace, logins[namespace])
        helper = self._helper(document, host)
        if helper:
            asked = _HUB_KEY if _canonical(host) == _HUB_KEY else host
            # It is stored under the spelling of `docker login`.
            for address in dict.fromkeys((asked, key or asked)):
                answer = ask_helper(helper, address, timeout_seconds=self._helper_timeout_seconds)
                if answer is not None:
                    username, secret = answer
                    return Login("", "", secret) if username == _IDENTITY_USER else Login(username, secret)
        return None if key is None else self._stored(key, logins[key])

    def origin(self) -> str:
        """Return where logins come from, and what is wrong there, for messages."""
        where = f"logins are read from {self._path}" if self._path.exists() else f"there is no {self._path}"
        return where + self._problem

    def _read(self) -> Mapping[str, Any]:
        """Return the file's content, cached until the file changes."""
        with self._lock:
            try:
                status = self._path.stat()
                if stat.S_ISFIFO(status.st_mode):
                    raise CredentialsError(f"{self._path} cannot be read: it is a pipe, and no file")
                version = (status.st_mtime_ns, status.st_size, status.st_ino)
                if version != self._version:
                    self._document, self._version = self._parse(), version
            except FileNotFoundError:
                self._document, self._version = {}, None
            except OSError as error:
                raise CredentialsError(f"{self._path} cannot be read: {error.strerror}") from None
            return self._document

    def _parse(self) -> Mapping[str, Any]:
        with self._path.open("rb") as file:
            raw = file.read(_LIMIT_BYTES + 1)
        if raw.removeprefix(codecs.BOM_UTF8).strip() in {b"", b"null"}:
            return {}  # so does Docker: `touch` makes such files, and `/dev/null` is mounted in their place
        where = ""
        try:
            document = json.loads(raw.decode("utf-8-sig")) if len(raw) <= _LIMIT_BYTES else None
        except json.JSONDecodeError as error:
            document, where = None, f" (line {error.lineno})"
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):  # outside of `except`: the parser's error holds the whole file
            raise CredentialsError(f"{self._path} is no Docker configuration file: no JSON object{where}")
        return document

    def _section(self, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        section = document.get(key)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise self._malformed(key)
        return section

    def _helper(self, document: Mapping[str, Any], host: str) -> str:
        """Return the name of the helper for a registry, "" if the file names none."""
        helpers = self._section(document, "credHelpers")
        key = _find_key(helpers, host)
        name = document.get("credsStore") if key is None else helpers[key]
        if name is not None and not isinstance(name, str):
            raise self._malformed("credsStore" if key is None else f"credHelpers, {key}")
        return name or ""

    def _stored(self, key: str, entry: object) -> Login | None:
        """Return the login in an entry of `auths`; None if Docker left it empty, beside a helper."""
        where = f"auths, {key}"
        if entry is None:
            return None
        if not isinstance(entry, dict):
            raise self._malformed(where)
        values = {}
        for name in ("auth", "username", "password", "identitytoken"):
            value = entry.get(name)
            if value is not None and not isinstance(value, str):
                raise self._malformed(f"{where}, {name}")
            values[name] = value or ""
        username, password = values["username"], values["password"]
        if values["auth"]:
            pair = _decode(values["auth"])
            if pair is None:
                raise self._malformed(f"{where}, auth")
            username, password = pair
        token = values["identitytoken"]
        return Login(username, password, token) if username or password or token else None

    def _malformed(self, key: str) -> CredentialsError:
        shown = quoted(key, limit=200)[1:-1]
        return CredentialsError(f"{self._path} cannot be read: key {shown} is malformed")


def _canonical(host: str) -> str:
    """Normalize a host for comparison; all names of Docker Hub become one."""
    host = host.lower()
    return _HUB_KEY if host in _HUB_HOSTS else host


def _find_key(section: Mapping[str, Any], host: str) -> str | None:
    """Find the key for a registry in any spelling that Docker has written, the exact one first."""
    if host in section:
        return host
    wanted = _canonical(host)
    hosts = ((key, match[1]) for key in section if (match := _KEY.fullmatch(key)))
    return next((key for key, named in hosts if _canonical(named) == wanted), None)


def _namespaces(section: Mapping[str, Any], host: str) -> Iterator[tuple[str, str]]:
    """Yield the keys for namespaces of a registry, each with its path."""
    for key in section:
        match = _NAMESPACE_KEY.fullmatch(key) if _KEY.fullmatch(key) is None else None
        if match is not None and _canonical(match[1]) == _canonical(host):
            yield key, match[2]


def _decode(auth: str) -> tuple[str, str] | None:
    """Decode user name and password from base64; None if it is malformed.

    Made by hand it has line breaks, the alphabet of URLs, or no padding.
    """
    letters = "".join(auth.split()).translate(_URL_LETTERS).rstrip("=").encode()
    try:
        text = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True).decode()
    except ValueError:
        return None
    username, colon, password = text.partition(":")
    return (username, password.rstrip("\0")) if colon and username else None  # old versions of Docker pad it
