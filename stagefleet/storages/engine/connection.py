"""The connection to a Docker Engine: its images and containers, with every wait bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import docker
import requests
from docker.auth import encode_header
from docker.utils import kwargs_from_env

from stagefleet.docker_environment import docker_tls_environment
from stagefleet.errors import EngineError, NotFoundError
from stagefleet.names import Reference, Repository
from stagefleet.platforms import Platform
from stagefleet.redaction import masked_url, remember_secret, words_of
from stagefleet.registry import DockerConfig
from stagefleet.registry.leash import UNLEASHED, Leash, LeashedLock, current_leash
from stagefleet.settings import EngineSettings
from stagefleet.storages.engine.answers import explain, reaching_engine
from stagefleet.storages.engine.leaving import Heed, call_and_leave

__all__ = ["Engine"]

_NO_IMAGE = "<none>:<none>"
_SHOWN_CHARACTERS = 500


class _PatientClient(docker.APIClient):
    """docker-py's client, whose pulls would wait for a silent engine for ever."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if options.get("timeout") is None:
            options["timeout"] = self.timeout
        return super().send(request, **options)


class Engine:
    """A Docker Engine; from many threads. Connects when it is first used. Close it.

    All methods raise `EngineUnreachableError` where it does not answer, and what `answers.explain` makes of
    what it answers.

    Args:
        address: Where it listens.
        settings: Time-outs and platform.
        config: Where the logins come from that it needs at registries.

    Attributes:
        address: Where it listens, as it may be shown: without a login.
    """

    def __init__(self, address: str, settings: EngineSettings, *, config: DockerConfig) -> None:
        self.address = masked_url(address)
        self._login_address = address
        self._settings = settings
        self._config = config
        self._lock = LeashedLock()
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
            if self._client is None:
                self._client = call_and_leave(lambda _: self._connect(), current_leash())
            return self._client

    def _connect(self) -> _PatientClient:
        options = kwargs_from_env(
            environment={"DOCKER_HOST": self._login_address, **docker_tls_environment()}
        )
        with reaching_engine(self.address, "its version"):
            return _PatientClient(
                **options, version="auto", timeout=max(1, round(self._settings.timeout_seconds))
            )

    def ping(self) -> str:
        """Its version."""
        api = self._api
        with reaching_engine(self.address, "its version"):
            return str(api.version()["Version"])

    @property
    def platform(self) -> Platform:
        """What it pulls where nothing else is asked for, in its normal form: the settings', or its own."""
        if self._platform is None:
            if self._settings.platform:
                self._platform = Platform.parse(self._settings.platform).normal
            else:
                api = self._api
                with reaching_engine(self.address, "its version"):
                    found = api.version()
                own = Platform.of({"os": found.get("Os"), "architecture": found.get("Arch")})
                if own is None:
                    raise EngineError(f"the engine at {self.address} does not tell its platform")
                self._platform = own
        return self._platform

    # Images

    def find(self, name: str) -> dict[str, Any] | None:
        """What it knows of an image, by name or id; None if it has none such."""
        api: Any = self._api  # the stubs leave this one method untyped
        try:
            with reaching_engine(self.address, name):
                found: dict[str, Any] = api.inspect_image(name)
        except NotFoundError:
            return None
        return found

    def names(self, pattern: str, *, label: str | None = None) -> Iterator[str]:
        """The names of images.

        Args:
            pattern: A repository, for all its names; or a name in which `*` stands for anything but `/`.
            label: `KEY=VALUE`, which the images have to have.
        """
        api = self._api
        with reaching_engine(self.address, pattern):
            images = api.images(name=pattern, filters={} if label is None else {"label": label})
        for image in images:
            yield from (name for name in image["RepoTags"] or () if name != _NO_IMAGE)

    def tag(self, name: str, repository: str, tag: str) -> None:
        """Give an image one more name.

        Raises:
            NotFoundError: There is no image `name`.
        """
        api = self._api
        with reaching_engine(self.address, name):
            api.tag(name, repository, tag, force=True)

    def remove(self, name: str, *, force: bool = False) -> bool:
        """Take a name away, and the image with its last one.

        Args:
            name: Which.
            force: Also where a stopped container keeps the image.

        Returns:
            Whether it was there.

        Raises:
            EngineError: A container keeps it (status 409).
        """
        api = self._api
        try:
            with reaching_engine(self.address, name):
                api.remove_image(name, force=force)
        except NotFoundError:
            return False
        return True

    def load(self, archive: bytes) -> None:
        """Take over an image from an archive, as `docker save` writes them.

        Raises:
            EngineError: It is none that the engine takes.
        """
        api: Any = self._api  # the stubs leave this method untyped, too
        with reaching_engine(self.address, "an image to load"):
            for event in api.load_image(archive, quiet=True):
                if "error" in event:
                    words = words_of(event["error"], limit=_SHOWN_CHARACTERS)
                    raise EngineError(f"{self.address} does not load an image: {words}")

    def pull(
        self, reference: Reference, *, platform: Platform | None = None, leash: Leash = UNLEASHED
    ) -> int:
        """Pull an image, with the login that its registry needs.

        Args:
            reference: Which.
            platform: Of an index, its image for this one; `self.platform` if None.
            leash: Asked at each event of it; to leave stops the pull.

        Returns:
            The bytes that came, by the engine's own count of each layer.

        Raises:
            NotFoundError: The registry has none such.
            PlatformMissingError: An index has no image for the platform.
            BrokenStageError: The registry cannot give all of it.
            CredentialsError: The registry refuses the login.
        """
        name = str(reference)
        query = {"fromImage": str(reference.repository), "tag": reference.identifier}
        wanted = str(platform or self._settings.platform)
        if wanted:
            query["platform"] = wanted
        moved, _ = self._transfer("images/create", query, reference, leash)
        if self.find(name) is None:
            raise EngineError(f"{name}: the engine at {self.address} ended the pull without an image")
        return moved

    def push(self, reference: Reference, *, leash: Leash = UNLEASHED) -> int:
        """Push the image of this name, with the login that its registry needs; as `pull`."""
        path = f"images/{reference.repository}/push"
        moved, is_whole = self._transfer(path, {"tag": reference.identifier}, reference, leash)
        if not is_whole:
            raise EngineError(f"{reference}: the engine at {self.address} ended the push without a digest")
        return moved

    def _transfer(
        self, path: str, query: dict[str, str], reference: Reference, leash: Leash
    ) -> tuple[int, bool]:
        """Start a pull or push and read it to its end, or leave it when the leash ends.

        Not through docker-py's own methods: their streams leave the connection open when they are left.

        Returns:
            The bytes of all layers, and whether a digest was told.
        """
        api = self._api
        return call_and_leave(
            lambda heed: self._read_transfer(api, path, query, reference, heed), current_leash(leash)
        )

    def _read_transfer(
        self, api: _PatientClient, path: str, query: dict[str, str], reference: Reference, heed: Heed
    ) -> tuple[int, bool]:
        """Read a pull or push to its end, or until nobody waits for it any more."""
        name = str(reference)
        login = encode_header(self._login(reference.repository))
        remember_secret(str(login, "ascii"), passes=True)
        moved: dict[str, int] = {}
        is_whole = False
        with (
            reaching_engine(self.address, name),
            api.post(
                f"{api.base_url}/v{api.api_version}/{path}",
                params=query,
                headers={"X-Registry-Auth": login},
                stream=True,
            ) as response,
        ):
            if not response.ok:
                raise explain(
                    _message(response), subject=name, engine=self.address, status=response.status_code
                )
            for event in map(json.loads, filter(None, response.iter_lines())):
                heed()
                if "error" in event:
                    raise explain(str(event["error"]), subject=name, engine=self.address)
                if event.get("status") in {"Downloading", "Pushing"}:
                    progress = event.get("progressDetail") or {}
                    size = max(progress.get("total", 0), progress.get("current", 0))
                    moved[event["id"]] = max(moved.get(event["id"], 0), size)
                is_whole = is_whole or "Digest" in (event.get("aux") or {})
        return sum(moved.values()), is_whole

    def _login(self, repository: Repository) -> dict[str, str]:
        """What the engine logs in with; never None, for which docker-py would read its own files."""
        login = self._config.login(repository.host)
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
        """The containers, running or not, of an image or of one that was built on it."""
        api = self._api
        with reaching_engine(self.address, image_id):
            found: list[dict[str, Any]] = api.containers(all=True, filters={"ancestor": image_id})
        return found

    def remove_container(self, container_id: str, *, force: bool) -> None:
        """Remove a container with its anonymous volumes; that it is gone is success.

        Args:
            container_id: Which.
            force: Also one that runs.

        Raises:
            EngineError: It runs (status 409).
        """
        api = self._api
        try:
            with reaching_engine(self.address, f"container {container_id[:12]}"):
                api.remove_container(container_id, force=force, v=True)
        except NotFoundError:
            return
        except EngineError as error:
            if "already in progress" not in str(error):
                raise


def _message(response: requests.Response) -> str:
    """What an engine says of a request that it refuses (Docker Engine API 1.41, "ErrorResponse")."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason}"
