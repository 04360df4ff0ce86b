"""Stages wherever they are kept: in repositories, and in the engine of this host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from stagefleet.errors import NotFoundError
from stagefleet.manager.eviction import Deletes
from stagefleet.manager.produced import Produced
from stagefleet.names import DockerDaemon, Reference, Repository, StageId
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.stages import ImageInfo, StageDescription
from stagefleet.storages import RegistryStorage, StageIdList
from stagefleet.storages.rejections import Rejections

__all__ = ["Reach", "Stages"]


class Host(Protocol):
    """What is asked of the engine of this host."""

    def stage_ids(self, address: DockerDaemon) -> Iterable[StageId]:
        """The stages of a project."""

    def describe_stage(self, address: DockerDaemon, stage_id: StageId) -> StageDescription:
        """Describe one stage."""

    def describe_image(self, reference: Reference) -> ImageInfo | None:
        """An image by its name, None if it is not there."""

    def copy_stage(
        self,
        source: Repository | DockerDaemon,
        destination: Repository | DockerDaemon,
        stage_id: StageId,
        *,
        run: str,
        verify: bool,
        leash: Leash,
    ) -> Produced:
        """Copy a stage out of the engine or into it."""


class Stages(Deletes, Protocol):
    """What is asked of the storage manager."""

    @property
    def has_host(self) -> bool:
        """Whether there is an engine here."""

    @property
    def host(self) -> Host:
        """The engine of this host."""

    def storage(self, repository: Repository) -> RegistryStorage:
        """A repository as a storage."""

    def describe_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe one stage."""

    def describe_current_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe what stands under a stage's name at this moment."""

    def copy_stage(
        self,
        source: Repository,
        destination: Repository,
        stage_id: StageId,
        *,
        run: str,
        verify: bool,
        leash: Leash,
    ) -> Produced:
        """Copy one stage from registry to registry."""

    def refuse_rejected(self, repository: Repository, stage_id: StageId, leash: Leash) -> None:
        """Raise `StageNotFoundError` for a stage that is rejected."""


class Reach:
    """One way to stages of both kinds of storage; from many threads.

    Args:
        stages: The storage manager.
        client: Speaks to registries.

    Attributes:
        stages: The storage manager.
        client: Speaks to registries.
    """

    def __init__(self, stages: Stages, client: RegistryClient) -> None:
        self.stages = stages
        self.client = client

    def list_stages(self, address: Repository | DockerDaemon) -> StageIdList:
        """The stages of a storage, without rejected ones; none where it does not exist."""
        if isinstance(address, DockerDaemon):
            return StageIdList(self.stages.host.stage_ids(address))
        return self.stages.storage(address).stage_ids()

    def describe(self, address: Repository | DockerDaemon, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            StageNotFoundError: It is not there.
            BrokenStageError: It is known of, but cannot be given.
        """
        if isinstance(address, DockerDaemon):
            return self.stages.host.describe_stage(address, stage_id)
        return self.stages.describe_stage(address, stage_id)

    def has(self, repository: Repository, stage_id: StageId) -> bool:
        """Whether a repository has a stage at this moment, whatever is remembered of it."""
        return self._has_tag(repository, str(stage_id))

    def rejects(self, repository: Repository, stage_id: StageId) -> bool:
        """Whether a repository has a record at this moment that rejects a stage."""
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
        source: Repository | DockerDaemon,
        destination: Repository | DockerDaemon,
        stage_id: StageId,
        *,
        run: str,
        verify: bool = False,
        leash: Leash,
    ) -> Produced:
        """Copy one stage; arguments as for `StageManager.copy_stage`.

        Raises:
            StageNotFoundError: The source does not have it.
            BrokenStageError: The source cannot give all of it.
        """
        if isinstance(source, Repository) and isinstance(destination, Repository):
            return self.stages.copy_stage(source, destination, stage_id, run=run, verify=verify, leash=leash)
        return self.stages.host.copy_stage(source, destination, stage_id, run=run, verify=verify, leash=leash)

    def image(self, reference: Reference) -> ImageInfo:
        """An image by its name: as this host's engine has it, else as its registry has it.

        Raises:
            NotFoundError: Neither has it.
            BrokenStageError: The registry knows of it, but cannot give it.
        """
        found = self.stages.host.describe_image(reference) if self.stages.has_host else None
        return found or RegistryStorage(self.client, reference.repository).describe_image(reference)
