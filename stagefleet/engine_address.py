"""Address of this host's Docker Engine, found as Docker's own command finds it.

The order: the setting `engine.url`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context of the Docker
configuration file, the default socket (https://docs.docker.com/engine/manage-resources/contexts/, and
`resolveContextName` in docker/cli `cli/command/cli.go`). A default socket is that of the system, of a
rootless engine, or of Docker Desktop.

docker-py's own `docker.context` reads neither `DOCKER_CONTEXT` nor a folder without `config.json`, and a
worker without an engine does without docker-py.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stagefleet.errors import EngineNotFoundError, SettingsError
from stagefleet.redaction import masked_url, quoted

SCHEMES = ("unix", "tcp", "ssh", "http", "https")
"""The schemes of an engine's address; `npipe`, of Windows, is not among them."""
_SYSTEM_SOCKET = Path("/var/run/docker.sock")
_OTHERWISE = "or name an engine with STAGEFLEET_ENGINE__URL"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """The address of a Docker Engine.

    Attributes:
        url: Where it listens; it may contain a login.
        source: The setting, variable, context or socket that named it, for messages.
        certificates: Folder of `ca.pem`, `cert.pem` and `key.pem`, as far as there; None without TLS.
        verifies: Its certificate must be valid.
    """

    url: str = field(repr=False)
    source: str = "engine.url"
    certificates: Path | None = None
    verifies: bool = True

    @property
    def is_ssh(self) -> bool:
        """True if the engine is reached over SSH."""
        return self.url.startswith("ssh://")

    def certificate_file(self, name: str) -> str | None:
        """Return the path of a file of the certificates; None if it is not there."""
        file = None if self.certificates is None else self.certificates / name
        return str(file) if file is not None and file.is_file() else None


def find_engine(url: str = "") -> EngineAddress | None:
    """Find the engine's address: `url` if it is not empty, else as Docker's command does; None without one.

    A current context and the default sockets count where the extra `engine` is installed.

    Raises:
        SettingsError: `DOCKER_HOST` or `DOCKER_CONTEXT` is of no use.
        EngineNotFoundError: The current context is of no use.
    """
    for named, source in ((url, "engine.url"), (os.environ.get("DOCKER_HOST", ""), "DOCKER_HOST")):
        if named:
            return _with_tls_of_environment(_checked(named, source, SettingsError), source)
    if context := os.environ.get("DOCKER_CONTEXT", ""):
        if context != "default":
            return _read_context(context, "DOCKER_CONTEXT", SettingsError)
    elif find_spec("docker") is not None and (context := _current_context()) not in {"", "default"}:
        return _read_context(context, "currentContext", EngineNotFoundError)
    return None if find_spec("docker") is None else _default_socket()


def _checked(url: str, source: str, error: type[SettingsError | EngineNotFoundError]) -> str:
    """Return an address whose scheme is known; without a scheme it is HOST:PORT, as docker-py has it."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() not in SCHEMES:
        shown = masked_url(url)
        raise error(
            f"{source} names the Docker Engine {shown}: write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"
        )
    return url


def _docker_folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


# TLS by the variables of Docker's command (https://docs.docker.com/reference/cli/docker/#environment-variables)


def _with_tls_of_environment(url: str, source: str) -> EngineAddress:
    verifies = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    folder = os.environ.get("DOCKER_CERT_PATH")
    if re.match(r"(unix|ssh)://", url) or not (verifies or folder or os.environ.get("DOCKER_TLS")):
        return EngineAddress(url, source)
    return EngineAddress(url, source, Path(folder) if folder else _docker_folder(), verifies)


# Contexts (docker/cli `cli/context/store`): their folders are named by the hash of their names.


def _current_context() -> str:
    """Read the name of the current context; "" if there is none.

    A configuration file without contexts beside it was brought alone, for its logins: what it says of
    contexts is about another machine.
    """
    try:
        found = json.loads((_docker_folder() / "config.json").read_bytes())
        return str(found.get("currentContext") or "") if (_docker_folder() / "contexts").is_dir() else ""
    except (OSError, ValueError, AttributeError):  # whoever needs its logins says what is wrong with it
        return ""


def _read_context(name: str, source: str, error: type[SettingsError | EngineNotFoundError]) -> EngineAddress:
    contexts, name_hash = _docker_folder() / "contexts", sha256(name.encode()).hexdigest()
    subject = f"Docker's context {quoted(name)}, which {source} names,"
    file = contexts / "meta" / name_hash / "meta.json"
    try:
        endpoint: dict[str, Any] = json.loads(file.read_bytes())["Endpoints"]["docker"]
        url, verifies = str(endpoint["Host"]), not endpoint.get("SkipTLSVerify")
    except FileNotFoundError:
        raise error(
            f"{subject} does not exist in {contexts}: choose one that  docker context ls  shows, {_OTHERWISE}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise error(
            f"{subject} cannot be read from {file} ({type(cause).__name__}): create it again, {_OTHERWISE}"
        ) from cause
    source = f"context {name}"
    certificates = contexts / "tls" / name_hash / "docker"
    if re.match(r"(unix|ssh)://", url) or (verifies and not certificates.is_dir()):
        return EngineAddress(_checked(url, source, error), source)
    return EngineAddress(_checked(url, source, error), source, certificates, verifies)


# Sockets


def _default_socket() -> EngineAddress | None:
    """Return the first socket that this user may use, else the first one, else None."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    home = Path.home() / ".docker"
    candidates = (
        _SYSTEM_SOCKET,
        Path(runtime) / "docker.sock",  # https://docs.docker.com/engine/security/rootless/
        home / "run" / "docker.sock",  # Docker Desktop on macOS
        home / "desktop" / "docker.sock",  # Docker Desktop on Linux
    )
    sockets = [path for path in candidates if _is_socket(path)]
    usable = [path for path in sockets if os.access(path, os.R_OK | os.W_OK)]
    return next((EngineAddress(f"unix://{path}", "its default socket") for path in usable or sockets), None)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
