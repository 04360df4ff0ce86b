"""All storages of a fleet, opened by their addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, overload

from stagefleet.errors import EngineNotFoundError
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

__all__ = ["Storages"]


class Storages:
    """The storages of a fleet; thread-safe.

    Args:
        registries: The registries.
        open_host: Opens this host's engine; None where there is none.

    Attributes:
        circuit_breakers: The caches that are skipped after an outage.
        run_lists: Repositories as runs have listed them.
    """

    def __init__(self, registries: Registries, open_host: Callable[[], EngineHost] | None = None) -> None:
        self.registries = registries
        self.circuit_breakers = CircuitBreakers()
        self.run_lists = RunLists(self)
        self._open_host = open_host

    @overload
    def open(self, address: Repository) -> RegistryStorage: ...
    @overload
    def open(self, address: EngineProject) -> EngineStorage: ...
    @overload
    def open(self, address: StorageAddress) -> Storage: ...
    def open(self, address: StorageAddress) -> Storage:
        """Open the storage of an address, which may not exist; no requests.

        Raises:
            EngineNotFoundError: It is in a Docker Engine, and this host has none.
        """
        if address.is_on_host:
            return EngineStorage(self.host, address)
        return RegistryStorage(self, address)

    @property
    def host(self) -> EngineHost:
        """This host's Docker Engine.

        Raises:
            EngineNotFoundError: The host has none.
        """
        if self._open_host is None:
            raise EngineNotFoundError(
                "there is no Docker Engine here: name one with STAGEFLEET_ENGINE__URL, or set DOCKER_HOST"
            )
        return self._open_host()

    @cached_property
    def deletions(self) -> TagDeletions:
        """Deletions of tags in repositories, for `Storage.delete`."""
        from stagefleet.deletion.tag_deletion import TagDeletions  # noqa: PLC0415 - only workers delete

        return TagDeletions(self.registries)

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe an image by its name: from this host's engine, else from its registry.

        Raises:
            NotFoundError: Neither has it.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        if self._open_host is not None:
            found = self.host.engine.find(str(reference))
            if found is not None:
                return describe_engine_image(found, reference.repository, reference.tag or "")
        return self.open(reference.repository).describe_image(reference)
