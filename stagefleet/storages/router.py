"""Access to stages in repositories and in the engine of this host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from stagefleet.attempt import ItemResult
from stagefleet.errors import NotFoundError, TooManyItemsError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import Lease
from stagefleet.names import EngineProject, Reference, Repository, StageId, StorageAddress
from stagefleet.projects.circuit_breakers import StageDeleter
from stagefleet.registry import RegistryClient
from stagefleet.runs.models import MAX_ITEMS
from stagefleet.shared_state.id_list import StageIdList
from stagefleet.storages.rejections import Rejections
from stagefleet.storages.repository import RegistryStorage

__all__ = ["Comparison", "RoutedStages", "StorageRouter", "compare"]


class HostEngine(Protocol):
    """Part of this host's engine manager that `StorageRouter` needs."""

    def stage_ids(self, address: EngineProject) -> Iterable[StageId]:
        """List the stages of a project."""

    def describe_stage(self, address: EngineProject, stage_id: StageId) -> StageDescription:
        """Describe one stage."""

    def describe_image(self, reference: Reference) -> ImageInfo | None:
        """Describe an image by its name, None if it does not exist."""

    def copy_stage(
        self,
        source: StorageAddress,
        destination: StorageAddress,
        stage_id: StageId,
        *,
        run_id: str,
        verify: bool,
        lease: Lease,
    ) -> ItemResult:
        """Copy a stage from the engine or into it."""


class RoutedStages(StageDeleter, Protocol):
    """Part of the storage manager that `StorageRouter` needs."""

    @property
    def has_host(self) -> bool:
        """True if this host has an engine."""

    @property
    def host(self) -> HostEngine:
        """The engine of this host."""

    def storage(self, repository: Repository) -> RegistryStorage:
        """Return a repository as a storage."""

    def describe_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe one stage."""

    def describe_current_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe the current content of a stage's tag."""

    def copy_stage(
        self,
        source: Repository,
        destination: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        verify: bool,
        lease: Lease,
    ) -> ItemResult:
        """Copy one stage from registry to registry."""

    def refuse_rejected(self, repository: Repository, stage_id: StageId, lease: Lease) -> None:
        """Raise `StageNotFoundError` for a stage that is rejected."""


class StorageRouter:
    """Access to stages in both kinds of storage; thread-safe.

    Args:
        stages: The storage manager.
        client: Client for registries.

    Attributes:
        stages: The storage manager.
        client: Client for registries.
    """

    def __init__(self, stages: RoutedStages, client: RegistryClient) -> None:
        self.stages = stages
        self.client = client

    def list_stages(self, address: StorageAddress) -> StageIdList:
        """List the stages of a storage, without rejected ones; empty if it does not exist."""
        if address.is_on_host:
            return StageIdList(self.stages.host.stage_ids(address))
        return self.stages.storage(address).stage_ids()

    def describe(self, address: StorageAddress, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            StageNotFoundError: It does not exist.
            BrokenStageError: It is listed, but cannot be delivered.
        """
        if address.is_on_host:
            return self.stages.host.describe_stage(address, stage_id)
        return self.stages.describe_stage(address, stage_id)

    def has(self, repository: Repository, stage_id: StageId) -> bool:
        """Return True if a repository has a stage now, without the fleet's memory."""
        return self._has_tag(repository, str(stage_id))

    def rejects(self, repository: Repository, stage_id: StageId) -> bool:
        """Return True if a repository has a record now that rejects a stage."""
        if not self._has_tag(repository, stage_id.rejected_tag):
            return False
        return Rejections(self.client, repository).stands(stage_id)

    def _has_tag(self, repository: Repository, tag: str) -> bool:
        try:
            self.client.head_manifest(repository.tagged(tag))
        except NotFoundError:
            return False
        return True

    def copy(
        self,
        source: StorageAddress,
        destination: StorageAddress,
        stage_id: StageId,
        *,
        run_id: str,
        verify: bool = False,
        lease: Lease,
    ) -> ItemResult:
        """Copy one stage; arguments as for `StageManager.copy_stage`.

        Raises:
            StageNotFoundError: The source does not have it.
            BrokenStageError: The source cannot deliver all of it.
        """
        if not source.is_on_host and not destination.is_on_host:
            return self.stages.copy_stage(
                source, destination, stage_id, run_id=run_id, verify=verify, lease=lease
            )
        return self.stages.host.copy_stage(
            source, destination, stage_id, run_id=run_id, verify=verify, lease=lease
        )

    def image(self, reference: Reference) -> ImageInfo:
        """Describe an image by its name: from this host's engine, else from its registry.

        Raises:
            NotFoundError: Neither has it.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        found = self.stages.host.describe_image(reference) if self.stages.has_host else None
        return found or RegistryStorage(self.client, reference.repository).describe_image(reference)


# Comparison of storages by their tag lists alone: no request per stage.


@dataclass(frozen=True, slots=True)
class Comparison:
    """Stages of a source, compared with a destination.

    Attributes:
        missing: Stages that the destination lacks.
        present: Stages that it has.
    """

    missing: StageIdList
    present: StageIdList


def compare(source: RegistryStorage, destination: RegistryStorage) -> Comparison:
    """Compare two tag lists.

    Raises:
        TooManyItemsError: The source has more stages than a run may have items.
    """
    wanted = source.stage_ids()
    if len(wanted) > MAX_ITEMS:
        raise TooManyItemsError(
            f"{source.address} has {len(wanted):,} stages, a run has at most {MAX_ITEMS:,}: name fewer"
        )
    missing, present = wanted.split(destination.stage_ids())
    return Comparison(missing, present)
