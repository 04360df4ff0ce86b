"""Stages in the Docker Engine of a worker's host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.engine.connection import Engine
from stagefleet.engine.image_use import ImageUse
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import EngineError, ImageInUseError, UsageError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import Lease
from stagefleet.locks import LockManager
from stagefleet.names import EngineProject, Reference, Repository, StageId, StorageAddress
from stagefleet.platforms import PlatformSelection
from stagefleet.project import Project
from stagefleet.registry import DockerConfig, RegistryClient
from stagefleet.setting_types import docker_config_file
from stagefleet.settings import EngineSettings
from stagefleet.shared_state.last_used import LastUsed
from stagefleet.storages.docker_engine import EngineRecordStore, EngineStorage, StageImages, describe_image_in
from stagefleet.storages.fetch import FetchStages, StageFetch
from stagefleet.storages.repository import RegistryStorage
from stagefleet.storages.stage_locks import ImageLocks, StageLocks, image_of
from stagefleet.storages.transfer import copy_from_engine, copy_into_engine

__all__ = ["HostManager", "make_host"]

_CONFLICT = 409


class HostManager:
    """Stages in the engine of one host; thread-safe.

    Args:
        stages: The storage manager, for copies between registries.
        client: Client for registries.
        engine: The host's engine.
        host: The host's name in the fleet.
        locks: The fleet's locks.
        last_used: Records the use and removal of images.
    """

    def __init__(
        self,
        stages: FetchStages,
        client: RegistryClient,
        engine: Engine,
        *,
        host: str,
        locks: LockManager,
        last_used: LastUsed | None = None,
    ) -> None:
        self._stages = stages
        self._client = client
        self._engine = engine
        self._host = host
        self._images = ImageLocks(locks, host)
        self._stage_locks = StageLocks(locks, host=host)
        self._last_used = last_used

    def close(self) -> None:
        """Close the connections to the engine."""
        self._engine.close()

    def stage_ids(self, address: EngineProject) -> Iterator[StageId]:
        """List the stages of a project in the engine."""
        return iter(EngineStorage(self._engine, address).stage_ids())

    def describe_stage(self, address: EngineProject, stage_id: StageId) -> StageDescription:
        """Describe a stage in the engine.

        Raises:
            StageNotFoundError: The engine does not have it.
        """
        return EngineStorage(self._engine, address).describe(stage_id)

    def describe_image(self, reference: Reference) -> ImageInfo | None:
        """Describe any image in the engine by its name, None if it does not exist."""
        found = self._engine.find(str(reference))
        return None if found is None else describe_image_in(found, reference.repository, reference.tag or "")

    def records(self, address: EngineProject) -> EngineRecordStore:
        """Return the records of a project in the engine."""
        return EngineRecordStore(self._engine, address)

    def fetch_stage(
        self, project: Project, stage_id: StageId, platforms: PlatformSelection, *, run_id: str, lease: Lease
    ) -> ItemResult:
        """Fetch a stage to this host; see `manager.fetch`. One lock covers all its platforms.

        Raises:
            PlatformNotFoundError: It has no image for a requested platform.
            StorageStateChangedError: It is no longer where it was found: look it up again.
            LockTimeoutError: Its image is being removed, for too long.
        """
        fetch = StageFetch(
            self._stages,
            self._client,
            self._engine,
            self._note,
            project,
            platforms=platforms,
            run_id=run_id,
            lease=lease,
        )
        with self._images.lock_shared(image_of(project.primary, stage_id), check=lease.check):
            return fetch.execute(stage_id)

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
        """Copy a stage from the engine to a repository, or from a repository to the engine.

        If another copy of it is under way, wait for that and count its result: skipped.

        Raises:
            StageNotFoundError: The source does not have it.
            LockTimeoutError: Others were copying or deleting it for too long.
        """
        with self._stage_locks.lock_for_copy(
            source, destination, stage_id, run_id=run_id, lease=lease
        ) as stage_lock:
            item_result = self._copy(
                source, destination, stage_id, verify=verify or stage_lock.has_waited, lease=stage_lock
            )
        for address in (source, destination):
            if address.is_on_host:
                self._note(image_of(address, stage_id))
        if not destination.is_on_host and not item_result.skipped:
            self._stages.note_arrival(destination, stage_id)
        return item_result

    def _copy(
        self,
        source: StorageAddress,
        destination: StorageAddress,
        stage_id: StageId,
        *,
        verify: bool,
        lease: Lease,
    ) -> ItemResult:
        match source, destination:
            case Repository(), EngineProject():
                return copy_into_engine(
                    RegistryStorage(self._client, source),
                    EngineStorage(self._engine, destination),
                    stage_id,
                    drop=self._drop,
                    verify=verify,
                    lease=lease,
                )
            case EngineProject(), Repository():
                return copy_from_engine(
                    EngineStorage(self._engine, source),
                    RegistryStorage(self._client, destination),
                    stage_id,
                    drop=self._drop,
                    verify=verify,
                    lease=lease,
                )
        raise UsageError(
            f"{source} to {destination}: one of the two has to be a repository, the other an engine"
        )

    def delete_stage(
        self, address: EngineProject, stage_id: StageId, policy: InUsePolicy, *, run_id: str, lease: Lease
    ) -> ItemResult:
        """Remove a stage from the engine, in all its platforms; `NOT_THERE` for a missing one.

        Raises:
            ImageInUseError: A job or a container uses it; names it and the option to set.
            LockTimeoutError: It was being copied for too long.
        """
        with self._stage_locks.lock_exclusively(address, stage_id, run_id=run_id, lease=lease) as stage_lock:
            return self._remove(address, stage_id, policy, stage_lock)

    def _remove(
        self, address: EngineProject, stage_id: StageId, policy: InUsePolicy, lease: Lease
    ) -> ItemResult:
        stage = StageImages(self._engine, address.project, stage_id)
        if not stage.all():
            self._forget(image_of(address, stage_id))
            return NOT_THERE
        try:
            with self._images.lock_exclusively(image_of(address, stage_id)):
                use, found = ImageUse(self._engine, policy), stage.all()
                if not all(use.clear_containers(name, image_id) for name, image_id in found.items()):
                    return ItemResult(skipped=True)
                lease.check()
                for name in found:
                    self._engine.remove(name)
                    self._forget(name)
        except ImageInUseError:
            if policy.skip_used:
                return ItemResult(skipped=True)
            raise
        except EngineError as error:
            if error.status != _CONFLICT:
                raise
            # A container was started after the check.
            raise ImageInUseError(f"{error}; skip it with --skip-used") from error
        return ItemResult()

    def _drop(self, name: str) -> None:
        """Remove a name that only a copy needed, unless a job has fetched it meanwhile."""
        with suppress(ImageInUseError), self._images.lock_exclusively(name):
            self._engine.remove(name)

    def _note(self, image: str) -> None:
        if self._last_used is not None:
            self._last_used.note(self._host, image)

    def _forget(self, image: str) -> None:
        if self._last_used is not None:
            self._last_used.forget(self._host, image)


def make_host(
    settings: EngineSettings,
    stages: FetchStages,
    client: RegistryClient,
    locks: LockManager,
    last_used: LastUsed | None = None,
) -> HostManager | None:
    """Create the manager for this host's engine, None without an engine; it connects at its first use."""
    if settings.address is None:
        return None
    engine = Engine(settings.address, settings, config=DockerConfig(docker_config_file()))
    return HostManager(stages, client, engine, host=settings.host_name, locks=locks, last_used=last_used)
