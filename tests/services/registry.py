"""A real registry: Debian's `docker-registry`, distribution 2.8, or distribution 3 where set-up built it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import bcrypt
import requests

from stagefleet.leases import NO_LEASE, Lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Repository
from stagefleet.registry.blob_reader import BlobReader
from stagefleet.registry.client import RegistryClient
from tests.services.processes import Program, ServiceStartError, find_program, free_port, wait_until
from tests.services.tls import Tls
from tests.services.tokens import TokenServer

_START_ATTEMPTS = 5
_TIMEOUT_SECONDS = 10
_BCRYPT_ROUNDS = 4  # the least there is: tests log in often
_ACCESS = re.compile(r'^\S+ - \S+ \[[^]]*\] "(\S+) (\S+) HTTP/[0-9.]+" ([0-9]{3}) ', re.MULTILINE)
_SETTLING = "/v2/?settling="
_TOOLS = Path(__file__).parents[2] / ".tools"
_QUIET = {"OTEL_TRACES_EXPORTER": "none"}  # distribution 3 sends traces to a collector otherwise


def built_registry(name: str = "distribution") -> str | None:
    """Return the program of a registry, None where set-up did not build it; by default of distribution 3."""
    built = _TOOLS / name / "registry"
    return str(built) if built.exists() else None


class Request(NamedTuple):
    """A request as the access log has it; the path with its query."""

    method: str
    path: str
    status: int


class RegistryServer:
    """A registry on a loopback port, the same one over its restarts.

    Attributes:
        folder: Where it keeps configuration, output and content.
        root: Its content.
        host: `127.0.0.1:PORT`, with which the names of its repositories begin.
        url: `host` with the scheme that it speaks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        delete: bool = True,
        htpasswd: Mapping[str, str] | None = None,
        token: TokenServer | None = None,
        tls: Tls | None = None,
        client_certificates: bool = False,
        cache: bool = False,
        foreign_urls: bool = False,
        binary: str | None = None,
    ) -> None:
        """Prepare a registry; `start` starts it.

        Args:
            folder: For everything of it, made if need be.
            delete: Whether deletion is on.
            htpasswd: Passwords by user, for basic logins.
            token: The server whose tokens it wants.
            tls: The certificate with which it speaks TLS.
            client_certificates: Whether clients have to show a certificate of the same authority.
            cache: Whether it remembers blobs in memory, as Debian configures it; then it cannot be renewed.
            foreign_urls: Whether it takes manifests with layers that are to be had elsewhere.
            binary: The program, as `built_registry` finds one; Debian's by default.
        """
        self._binary = binary or find_program("docker-registry", install="apt-get install docker-registry")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root = folder, folder / "content"
        self._delete, self._htpasswd, self._token = delete, htpasswd, token
        self._tls, self._client_certificates, self._cache = tls, client_certificates, cache
        self._foreign_urls = foreign_urls
        self._program: Program | None = None
        self._is_paused = False
        self._seen_bytes = self._settled = 0
        self._place(free_port())

    def start(self) -> Self:
        """Start it and wait until it listens; returns itself."""
        is_first = self._program is None
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            file = self.folder / "config.json"  # JSON is YAML
            file.write_text(json.dumps(self._configuration()))
            program = self._program = Program(
                [self._binary, "serve", str(file)],
                folder=self.folder,
                name="registry",
                environment=os.environ | _QUIET,
            )
            try:
                program.wait_for("listening on ")
                break
            except ServiceStartError:
                program.kill()
                if not attempts_left or "address already in use" not in program.logged():
                    raise
                if is_first:  # later its clients know its port
                    self._place(free_port())
        return self

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.pid

    def session(self) -> requests.Session:
        """A session with all that it asks for: authority, certificate, the first login, a token for all."""
        session = requests.Session()
        session.trust_env = False
        if self._tls is not None:
            session.verify = str(self._tls.ca_file)
            session.cert = (str(self._tls.client_certificate), str(self._tls.client_key))
        if self._htpasswd:
            session.auth = next(iter(self._htpasswd.items()))
        if self._token is not None:
            session.auth = self._token.bearer_for_all()
        return session

    def requests(self) -> list[Request]:
        """What it answered since it was made, renewed or told to forget, in order of completion."""
        if self._running.alive and not self._is_paused:
            self._settle()
        log = self._running.stdout.read_bytes()[self._seen_bytes :].decode(errors="replace")
        found = [Request(method, path, int(status)) for method, path, status in _ACCESS.findall(log)]
        return [request for request in found if not request.path.startswith(_SETTLING)]

    def forget_requests(self) -> None:
        """Begin to count anew."""
        if self._running.alive and not self._is_paused:
            self._settle()
        self._seen_bytes = self._running.stdout.stat().st_size

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections are accepted, nothing is answered."""
        self._running.freeze()
        self._is_paused = True

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._running.thaw()
        self._is_paused = False

    def stop(self) -> None:
        """End it, its content stays; nothing when it has ended."""
        if self._program is not None:
            self._program.stop()
        self._is_paused = False

    def collect_garbage(self) -> None:
        """Remove the blobs that no manifest refers to."""
        subprocess.run(
            [self._binary, "garbage-collect", str(self.folder / "config.json")],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def renew(self) -> None:
        """Make it running and empty, with no request counted, whatever a test did to it."""
        assert not self._cache, "it would go on believing in what it remembers"
        if self._running.alive:
            self.resume()
        else:
            self.start()
        self.forget_requests()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def _running(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def _place(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.url = f"{'http' if self._tls is None else 'https'}://{self.host}"

    def _settle(self) -> None:
        """Let the log catch up: a line may follow its answer, but not by more than ours does."""
        self._settled += 1
        mark = f"{_SETTLING}{self._settled}."
        with self.session() as session:
            session.get(self.url + mark, timeout=_TIMEOUT_SECONDS)
        log = self._running.stdout
        wait_until(lambda: mark in log.read_text(errors="replace"), "the registry logs a request")

    def _configuration(self) -> dict[str, Any]:
        storage: dict[str, Any] = {
            "filesystem": {"rootdirectory": str(self.root)},
            "delete": {"enabled": self._delete},
        }
        if self._cache:
            storage["cache"] = {"blobdescriptor": "inmemory"}
        # Distribution 3 ends at SIGTERM only where it is told how long requests may still take.
        http: dict[str, Any] = {"addr": self.host, "secret": "not one", "draintimeout": "1s"}
        if self._tls is not None:
            http["tls"] = {
                "certificate": str(self._tls.server_certificate),
                "key": str(self._tls.server_key),
            }
            if self._client_certificates:
                http["tls"]["clientcas"] = [str(self._tls.ca_file)]
        document: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": storage,
            "http": http,
        }
        if self._foreign_urls:
            document["validation"] = {"manifests": {"urls": {"allow": [".*"]}}}
        if self._htpasswd is not None:
            file = self.folder / "htpasswd"
            file.write_text("".join(_htpasswd_line(*login) for login in self._htpasswd.items()))
            document["auth"] = {"htpasswd": {"realm": "tests", "path": str(file)}}
        if self._token is not None:
            document["auth"] = {"token": self._token.configuration()}
        return document


def _htpasswd_line(user: str, password: str) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()}\n"


def copy_blob(
    client: RegistryClient,
    source: Repository,
    destination: Repository,
    descriptor: Descriptor,
    *,
    mount_from: Repository | None,
    lease: Lease = NO_LEASE,
    on_bytes: Callable[[int], None] | None = None,
) -> int:
    """Copy a blob from repository to repository, and return the bytes sent."""

    def open_source() -> BlobReader:
        return client.open_blob(source, descriptor, lease=lease, on_bytes=on_bytes)

    return client.upload_blob(destination, descriptor, open_source, mount_from=mount_from, lease=lease)
