"""All storages of a fleet, opened by their addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, overload

from stagefleet.errors import EngineNotFoundError, SettingsError
from stagefleet.image_config import describe_engine_image
from stagefleet.images import ImageInfo
from stagefleet.names import EngineProject, Reference, Repository, StorageAddress
from stagefleet.registries import Registries
from stagefleet.storages.circuit_breakers import CircuitBreakers
from stagefleet.storages.docker_engine import EngineHost, EngineStorage
from stagefleet.storages.repository import RegistryStorage
from stagefleet.storages.run_lists import RunLists
from stagefleet.storages.storage import Storage

if TYPE_CHECKING:
    from stagefleet.deletion.tag_deletion import TagDeletions  # clients delete nothing


class Storages:
    """The storages of a fleet; thread-safe.

    `open_host` opens this host's engine, at its first use; it raises where there is none.

    Attributes:
        circuit_breakers: The caches that are skipped after an outage.
        run_lists: Repositories as runs have listed them.
    """

    def __init__(self, registries: Registries, open_host: Callable[[], EngineHost]) -> None:
        self.registries = registries
        self.circuit_breakers = CircuitBreakers()
        self.run_lists = RunLists(self)
        self._open_host = open_host
        self._host: EngineHost | None = None
        self._lock = Lock()

    @overload
    def open(self, address: Repository) -> RegistryStorage: ...
    @overload
    def open(self, address: EngineProject) -> EngineStorage: ...
    @overload
    def open(self, address: StorageAddress) -> Storage: ...
    def open(self, address: StorageAddress) -> Storage:
        """Open the storage of an address, which may not exist; no requests. Errors as of `host`."""
        if address.is_on_host:
            return EngineStorage(self.host, address)
        return RegistryStorage(self, address)

    @property
    def host(self) -> EngineHost:
        """This host's Docker Engine; `EngineNotFoundError` or `SettingsError` where it cannot be used."""
        with self._lock:
            if self._host is None:
                self._host = self._open_host()
            return self._host

    def close(self) -> None:
        """Close the connections to registries and the engine."""
        self.registries.client.close()
        with self._lock:
            host, self._host = self._host, None
        if host is not None:
            host.close()

    @cached_property
    def deletions(self) -> TagDeletions:
        """Deletions of tags in repositories, for `Storage.delete`."""
        from stagefleet.deletion.tag_deletion import TagDeletions  # noqa: PLC0415 - only workers delete

        return TagDeletions(self.registries)

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe an image by its name: from this host's engine, else from its registry.

        Errors are as of `RegistryStorage.describe_image`.
        """
        try:
            engine = self.host.engine
        except (EngineNotFoundError, SettingsError):
            found = None
        else:
            found = engine.find(str(reference))
        if found is not None:
            return describe_engine_image(found, reference.repository, reference.tag or "")
        return self.open(reference.repository).describe_image(reference)
