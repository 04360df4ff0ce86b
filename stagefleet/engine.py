"""Connection to a Docker Engine: images and containers, with a time limit for every wait."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import docker
import requests

from stagefleet import errors
from stagefleet.credentials import DockerConfig
from stagefleet.engine_address import EngineAddress
from stagefleet.engine_errors import SHOWN_CHARACTERS, explain, map_engine_errors, refuses_version
from stagefleet.images import Platform
from stagefleet.leases import NO_LEASE, SLICE_SECONDS, Lease, LeaseBoundLock, current_lease
from stagefleet.names import Reference, Repository
from stagefleet.redaction import masked_url, remember_secret, words_of
from stagefleet.settings import EngineSettings

_NO_IMAGE = "<none>:<none>"
_PUSHED = re.compile(r": digest: \w+:[0-9a-f]+ size: \d+$")
_OLDEST_API = (1, 41)
"""The first API version that has all that is used here: that of Docker 20.10."""
_EXPORT_TIMEOUTS = 30  # time-outs that an engine has, which writes an archive to disk before its first byte


class _PatientClient(docker.APIClient):
    """docker-py's client with time limits for pulls, which would wait for a silent engine without end."""

    is_outdated = False
    """True if the engine no longer speaks the API version that was agreed on, as after an update."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Let the engine's own authority come before `REQUESTS_CA_BUNDLE` (psf/requests #3829)."""
        own = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, own, cert)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if options.get("timeout") is None:
            options["timeout"] = self.timeout
        response = super().send(request, **options)
        if response.status_code == HTTPStatus.BAD_REQUEST and refuses_version(response.text):
            self.is_outdated = True
        return response


class Engine:
    """A Docker Engine; thread-safe. It connects at its first use. Close it.

    All methods raise `EngineUnreachableError` if the engine does not answer, and the errors of `explain`.
    The address is without a login, for messages.
    """

    def __init__(self, address: EngineAddress, settings: EngineSettings, *, config: DockerConfig) -> None:
        self.address = masked_url(address.url)
        self._login_address = address
        self._settings = settings
        self._config = config
        self._lock = LeaseBoundLock()
        self._client: _PatientClient | None = None
        self._platform: Platform | None = None

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def _api(self) -> _PatientClient:
        with self._lock:
            if self._client is not None and self._client.is_outdated:
                self._client = None  # other threads may still read from it
            if self._client is None:
                self._client = call_under_lease(lambda _: self._connect(), current_lease())
            return self._client

    def _connect(self) -> _PatientClient:
        with map_engine_errors(self.address, "its version"):
            client = _PatientClient(
                self._login_address.url,
                tls=self._tls() or False,
                version="auto",
                timeout=max(1, round(self._settings.timeout_seconds)),
            )
            if tuple(map(int, client.api_version.split("."))) >= _OLDEST_API:
                return client
        spoken = client.api_version
        client.close()
        raise errors.EngineError(
            f"the Docker Engine at {self.address} speaks API {spoken}, and 1.41 is needed: "
            "update it to Docker 20.10 or later"
        )

    def _tls(self) -> docker.TLSConfig | None:
        address = self._login_address
        if address.certificates is None:
            return None
        ca, certificate, key = map(address.certificate_file, ("ca.pem", "cert.pem", "key.pem"))
        if address.verifies and not (ca or certificate):
            raise errors.SettingsError(
                f"{address.certificates} has no certificates for the Docker Engine at {self.address}: "
                "put ca.pem, cert.pem and key.pem there, or name their folder with DOCKER_CERT_PATH"
            )
        pair = (certificate, key) if certificate and key else None
        return docker.TLSConfig(client_cert=pair, ca_cert=ca, verify=address.verifies)

    @contextmanager
    def _asking(self, subject: str) -> Iterator[Any]:
        """Connect, and convert the errors of calls about a subject; the stubs leave some calls untyped."""
        api = self._api
        with map_engine_errors(self.address, subject):
            yield api

    @contextmanager
    def _open(self, name: str, path: str, **options: Any) -> Iterator[requests.Response]:
        """Open what the engine answers about an image."""
        with self._asking(name) as api:
            url = f"{api.base_url}/v{api.api_version}/images/{name}/{path}"
            with api.get(url, **options) as response:
                self._check(response, name)
                yield response

    def ping(self) -> str:
        """Return the engine's version."""
        with self._asking("its version") as api:
            return str(api.version()["Version"])

    def describe(self) -> str:
        """Return the engine's version, API versions and image store, for people."""
        with self._asking("its version") as api:
            version, info = api.version(), api.info()
            engine = f"Docker Engine {version['Version']}"
        oldest = f" (the oldest is {version['MinAPIVersion']})" if version.get("MinAPIVersion") else ""
        status = {entry[0]: entry[1] for entry in info.get("DriverStatus") or ()}
        # https://docs.docker.com/engine/storage/containerd/
        by_containerd = str(status.get("driver-type", "")).startswith("io.containerd.snapshotter")
        store = "containerd's image store" if by_containerd else "the classic image store"
        return f"{engine} answers at {self.address}, with API {api.api_version}{oldest} and {store}"

    @property
    def platform(self) -> Platform:
        """The platform that it pulls by default, in normal form: from the settings, or the engine's own."""
        if self._platform is None and self._settings.platform:
            self._platform = Platform.parse(self._settings.platform).normal
        if self._platform is None:
            with self._asking("its version") as api:
                found = api.version()
            self._platform = Platform.of({"os": found.get("Os"), "architecture": found.get("Arch")})
        if self._platform is None:
            raise errors.EngineError(f"the engine at {self.address} does not tell its platform")
        return self._platform

    # Images

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the engine's description of an image, by name or id; None if it does not have it."""
        api: Any = self._api  # the stubs leave this one method untyped
        try:
            with map_engine_errors(self.address, name):
                found: dict[str, Any] = api.inspect_image(name)
        except errors.NotFoundError:
            return None
        return found

    def image_ids(self, name: str) -> set[str]:
        """Return the ids of an image, and of what the engine has of an index; errors as of `export`.

        With containerd's image store a name leads to an index, and a push sends what is there of it (Docker
        Engine API 1.48, "Inspect an image"; older ones have the one id).
        """
        with self._open(name, "json", params={"manifests": "1"}) as response:
            found = response.json()
        members = [each for each in found.get("Manifests") or () if each["Kind"] == "image"]
        return {found["Id"], *(each["ID"] for each in members if each["Available"])}

    def names(self, pattern: str, *, label: str | None = None) -> Iterator[str]:
        """List the names of images, with a label `KEY=VALUE` if any.

        The pattern is a repository, for all its names; or a name in which `*` stands for anything but `/`.
        """
        with self._asking(pattern) as api:
            images = api.images(name=pattern, filters={} if label is None else {"label": label})
        for image in images:
            yield from (name for name in image["RepoTags"] or () if name != _NO_IMAGE)

    def tag(self, name: str, repository: str, tag: str) -> None:
        """Add a name to an image; `NotFoundError` if there is none."""
        with self._asking(name) as api:
            api.tag(name, repository, tag, force=True)

    def remove(self, name: str) -> bool:
        """Remove a name, the last one with the image; True if it was there. `EngineError` 409 if in use."""
        api = self._api
        try:
            with map_engine_errors(self.address, name):
                api.remove_image(name)
        except errors.NotFoundError:
            return False
        return True

    def load(self, archive: bytes) -> None:
        """Load an image from an archive in the format of `docker save`."""
        with self._asking("an image to load") as api:
            for event in api.load_image(archive, quiet=True):
                if "error" in event:
                    words = words_of(event["error"], limit=SHOWN_CHARACTERS)
                    raise errors.EngineError(f"{self.address} does not load an image: {words}")

    @contextmanager
    def export(self, name: str) -> Iterator[Any]:
        """Open the archive of an image for reading, in the format of `docker save`."""
        seconds = _EXPORT_TIMEOUTS * self._settings.timeout_seconds
        with self._open(name, "get", stream=True, timeout=seconds) as response:
            yield response.raw

    def pull(self, reference: Reference, *, platform: Platform | None = None, lease: Lease = NO_LEASE) -> int:
        """Pull an image, with the login for its registry; return the bytes, as the engine counts layers.

        Args:
            platform: Platform to choose from an index; `self.platform` if None.
            lease: Lease to check at each event; its error stops the pull.

        Raises:
            NotFoundError: The registry does not have it.
            PlatformNotFoundError: The index has no image for the platform.
            BrokenStageError: The registry cannot deliver all of it.
            CredentialsError: The registry refuses the login.
        """
        name = str(reference)
        query = {"fromImage": str(reference.repository), "tag": reference.identifier}
        wanted = str(platform or self._settings.platform)
        if wanted:
            query["platform"] = wanted
        moved, _ = self._transfer("images/create", query, reference, lease)
        if self.find(name) is None:
            raise errors.EngineError(f"{name}: the engine at {self.address} ended the pull without an image")
        return moved

    def push(self, reference: Reference, *, lease: Lease = NO_LEASE) -> int:
        """Push an image under its name, with the login for its registry; arguments and errors as `pull`."""
        path = f"images/{reference.repository}/push"
        moved, is_whole = self._transfer(path, {"tag": reference.identifier}, reference, lease)
        if not is_whole:
            raise errors.EngineError(
                f"{reference}: the engine at {self.address} ended the push without a digest"
            )
        return moved

    def _transfer(
        self, path: str, query: dict[str, str], reference: Reference, lease: Lease
    ) -> tuple[int, bool]:
        """Start a pull or push and read it to its end, or abandon it when the lease ends.

        docker-py's own methods do not serve here: an abandoned stream leaves its connection open. Return
        the bytes of all layers, and if the stream named a digest.
        """
        api = self._api
        return call_under_lease(
            lambda heed: self._read_transfer(api, path, query, reference, heed), current_lease(lease)
        )

    def _read_transfer(
        self, api: _PatientClient, path: str, query: dict[str, str], reference: Reference, heed: Heed
    ) -> tuple[int, bool]:
        """Read a pull or push to its end, or until its caller has left."""
        name = str(reference)
        login = base64.urlsafe_b64encode(json.dumps(self._login(reference.repository)).encode()).decode()
        remember_secret(login, passes=True)  # as the header of Docker Engine API 1.41, "Authentication"
        moved: dict[str, int] = {}
        is_whole = False
        with (
            map_engine_errors(self.address, name),
            api.post(
                f"{api.base_url}/v{api.api_version}/{path}",
                params=query,
                headers={"X-Registry-Auth": login},
                stream=True,
            ) as response,
        ):
            self._check(response, name)
            for event in map(json.loads, filter(None, response.iter_lines())):
                heed()
                if "error" in event:
                    raise explain(str(event["error"]), subject=name, engine=self.address)
                if event.get("status") in {"Downloading", "Pushing"}:
                    progress = event.get("progressDetail") or {}
                    size = max(progress.get("total", 0), progress.get("current", 0))
                    moved[event["id"]] = max(moved.get(event["id"], 0), size)
                # Of the two, an engine with containerd's image store has the status alone.
                is_whole |= "Digest" in (event.get("aux") or {})
                is_whole |= _PUSHED.search(str(event.get("status", ""))) is not None
        return sum(moved.values()), is_whole

    def _check(self, response: requests.Response, name: str) -> None:
        if response.ok:
            return
        try:
            message = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{response.status_code} {response.reason}"
        raise explain(message, subject=name, engine=self.address, status=response.status_code)

    def _login(self, repository: Repository) -> dict[str, str]:
        """Return the login for the engine; never None, for which docker-py would read its own files."""
        login = self._config.login(repository.host, repository.path)
        if login is None:
            return {}
        found = {
            "username": login.username,
            "password": login.password,
            "identitytoken": login.identity_token,
            "serveraddress": repository.host,
        }
        return {key: value for key, value in found.items() if value}

    # Containers

    def users(self, image_id: str) -> list[dict[str, Any]]:
        """List the containers, running or not, of an image or of images built on it."""
        with self._asking(image_id) as api:
            found: list[dict[str, Any]] = api.containers(all=True, filters={"ancestor": image_id})
        return found

    def remove_container(self, container_id: str, *, force: bool) -> None:
        """Remove a container with its anonymous volumes; `EngineError` (status 409) if it runs."""
        api = self._api
        try:
            with map_engine_errors(self.address, f"container {container_id[:12]}"):
                api.remove_container(container_id, force=force, v=True)
        except errors.NotFoundError:
            return
        except errors.EngineError as error:
            if "already in progress" not in str(error):
                raise


# Calls that the caller can abandon: a silent engine must not delay a cancelled item.

_Result = TypeVar("_Result")

Heed = Callable[[], None]
"""Called between two events of an engine; raises to end the call."""


def call_under_lease(call: Callable[[Heed], _Result], lease: Lease) -> _Result:
    """Run a call in a thread, and abandon it when the lease ends; errors as of `Lease.check`.

    `call` must call its argument now and then: abandoned, it ends at the engine's next event, or after its
    time-out.
    """
    left = threading.Event()
    answer: Future[_Result] = Future()

    def heed() -> None:
        lease.check()
        if left.is_set():
            raise errors.ItemCancelledError("nobody waits for this any more")

    def run() -> None:
        try:
            answer.set_result(call(heed))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            answer.set_exception(error)

    threading.Thread(target=run, name="engine-call", daemon=True).start()
    try:
        while not wait([answer], SLICE_SECONDS).done:
            lease.check()
        return answer.result()
    finally:
        left.set()
