"""Storage manager: operations on the stages of repositories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from stagefleet.attempt import ItemResult
from stagefleet.deletion.placeholder_swap import withdraw_deletion
from stagefleet.deletion.tag_deletion import TagDeletion
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.deletion.unfinished import UnfinishedDeletions
from stagefleet.errors import EngineNotFoundError, NotFoundError, StageNotFoundError, UsageError
from stagefleet.images import StageDescription
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.locks import LockManager, MemoryLocks
from stagefleet.names import Repository, StageId
from stagefleet.project import Project
from stagefleet.projects.circuit_breakers import CircuitBreakers
from stagefleet.projects.final_list import FinalLists
from stagefleet.projects.project import ProjectManager
from stagefleet.registry import RegistryClient
from stagefleet.shared_state.base import FLEET_NAMESPACE, SharedState
from stagefleet.storages.records import RecordManager
from stagefleet.storages.rejections import forget_rejections, reject_stage, rejections_key
from stagefleet.storages.remembered_stages import RememberedStages
from stagefleet.storages.repository import RegistryStorage
from stagefleet.storages.router import Comparison, StorageRouter, compare
from stagefleet.storages.stage_locks import StageLocks
from stagefleet.storages.transfer import StageCopy

if TYPE_CHECKING:
    from stagefleet.storages.host import HostManager  # imports docker-py: only with an engine

__all__ = ["StageManager"]

_REJECTIONS_SECONDS = 30
_REJECTIONS_WAIT_SECONDS = 60


class StageManager:
    """List, describe, copy and delete stages; thread-safe.

    Args:
        client: Client for registries.
        shared_state: The shared state.
        memory: The fleet's memory of stages; that of this process if None.
        locks: The fleet's locks; those of this process alone if None.

    Attributes:
        circuit_breakers: The caches that are skipped after an outage.
        records: Operations on records and custom tags.
    """

    def __init__(
        self,
        client: RegistryClient,
        shared_state: SharedState,
        memory: RememberedStages | None = None,
        *,
        locks: LockManager | None = None,
    ) -> None:
        self._client = client
        self._shared_state = shared_state
        self._remembered = RememberedStages() if memory is None else memory
        self._stage_locks = StageLocks(MemoryLocks() if locks is None else locks)
        self._kept_scans = KeptScans()
        self.records = RecordManager(
            client, shared_state, self._stage_locks, memory=self._remembered, kept_scans=self._kept_scans
        )
        self._unfinished = UnfinishedDeletions(client, shared_state, self._stage_locks, self._remembered)
        self.circuit_breakers = CircuitBreakers()
        self._host: HostManager | None = None
        self._final_lists = FinalLists(client, shared_state, self._remembered)

    def project(self, project: Project) -> ProjectManager:
        """Return the operations on a project's stages, in all its storages."""
        return ProjectManager(
            StorageRouter(self, self._client), self._final_lists, project, memory=self._remembered
        )

    def attach_host(self, host: HostManager) -> None:
        """Attach the manager for this host's Docker Engine."""
        self._host = host

    @property
    def has_host(self) -> bool:
        """True if this host has a Docker Engine."""
        return self._host is not None

    @property
    def host(self) -> HostManager:
        """The manager for this host's Docker Engine.

        Raises:
            EngineNotFoundError: The host has none.
        """
        if self._host is None:
            raise EngineNotFoundError(
                "there is no Docker Engine here: name one with STAGEFLEET_ENGINE__URL, or set DOCKER_HOST"
            )
        return self._host

    def stage_ids(self, repository: Repository) -> Iterator[StageId]:
        """List the stages of a repository, without rejected ones; empty if it does not exist."""
        return iter(self.storage(repository).stage_ids())

    def storage(self, repository: Repository) -> RegistryStorage:
        """Return a repository as a storage, with the fleet's cache of its rejections."""
        return RegistryStorage(self._client, repository, known=self._remembered.rejections)

    def compare_stages(self, source: Repository, destination: Repository) -> Comparison:
        """Compare source and destination by their tag lists.

        Raises:
            TooManyItemsError: The source has more stages than a run may have items.
        """
        return compare(self.storage(source), self.storage(destination))

    def describe_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe one stage: from the fleet's memory, or from the registry if its tag may have moved.

        Raises:
            StageNotFoundError: It does not exist, or is rejected.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        self.refuse_rejected(repository, stage_id, current_lease())
        if stage_id.is_multiplatform:
            return self.describe_current_stage(repository, stage_id)
        (known,) = self._remembered.known(repository, [stage_id])
        return known or self._look_at(repository, stage_id)

    def describe_current_stage(self, repository: Repository, stage_id: StageId) -> StageDescription:
        """Describe the current content of a stage's tag, rejected or not.

        Raises:
            StageNotFoundError: It does not exist.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        try:
            there = self._client.head_manifest(repository.tagged(str(stage_id)))
        except NotFoundError as error:
            raise StageNotFoundError(f"{repository} has no stage {stage_id}") from error
        known = self._remembered.confirm(repository, stage_id, there.digest)
        return known or self._look_at(repository, stage_id)

    def _look_at(self, repository: Repository, stage_id: StageId) -> StageDescription:
        description = RegistryStorage(self._client, repository).describe(stage_id)
        self._remembered.descriptions.remember(str(repository), [description])
        return description

    def known_descriptions(
        self, repository: Repository, stage_ids: Sequence[StageId]
    ) -> list[StageDescription | None]:
        """Return the remembered descriptions of stages, None for each that is not known; no requests.

        The caller must know that they exist and are not rejected, as from `stage_ids`.
        """
        return self._remembered.known(repository, stage_ids)

    def copy_stage(
        self,
        source: Repository,
        destination: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        verify: bool = False,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Copy one stage from registry to registry; see `manager.copy`.

        If another copy of it is under way, wait for that and count its result: skipped.

        Args:
            source: The repository that has it.
            destination: The repository that gets it.
            stage_id: The stage.
            run_id: The run's id; stages of one run share a namespace.
            verify: Skip it if the destination has the same digest.
            lease: Lease to check in waits and before writes.

        Raises:
            StageNotFoundError: The source does not have it, or it is rejected there.
            BrokenStageError: The source lists it, but cannot deliver it.
            LockTimeoutError: Others were copying or deleting it for too long.
        """
        self.refuse_rejected(source, stage_id, lease)
        with self._stage_locks.lock_for_copy(
            source, destination, stage_id, run_id=run_id, lease=lease
        ) as stage_lock:
            storage = RegistryStorage(self._client, source)
            copy = StageCopy(
                self._client, self._shared_state, storage, destination, run_id=run_id, lease=stage_lock
            )
            item_result = copy.execute(stage_id, verify=verify or stage_lock.has_waited)
            if stage_id.is_multiplatform and not item_result.skipped:
                withdraw_deletion(self._client, destination, stage_id, lease=stage_lock)
        if copy.found is not None:
            self._remembered.confirm(destination, stage_id, copy.found)
        else:
            self._remembered.add(destination, stage_id, copy.description)
        return item_result

    def delete_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Delete one stage, and no tag outside of the run; see `manager.delete`.

        Args:
            repository: The repository that has it.
            stage_id: The stage.
            run_id: The run's id.
            to_delete: Returns the stage ids that the run deletes and has not deleted yet; called rarely.
            lease: Lease to check in waits and before writes.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
            LockTimeoutError: It was being copied for too long.
        """
        deletion = TagDeletion(
            self._client,
            self._shared_state,
            repository,
            run_id=run_id,
            to_delete=to_delete,
            lease=lease,
            stage_locks=self._stage_locks,
            memory=self._kept_scans,
        )
        item_result = deletion.execute(str(stage_id))
        self._remembered.forget(repository, stage_id)
        self._unfinished.finish(repository, run_id=run_id, lease=lease)
        return item_result

    def note_arrival(self, repository: Repository, stage_id: StageId) -> None:
        """Record that a stage came to a repository, and update the fleet's memory."""
        self._remembered.add(repository, stage_id)

    def reject_stage(self, repository: Repository, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Reject a broken stage, so that nobody uses it; a second rejection changes nothing.

        Args:
            repository: The repository that has it.
            stage_id: The stage.
            project: The project that it belongs to.
            lease: Lease to check before the write.

        Raises:
            UsageError: It is a multi-platform stage: builders would refuse to build its image for good.
            RegistryError: The record cannot be written.
        """
        if stage_id.is_multiplatform:
            raise UsageError(
                f"{stage_id} is a multi-platform stage, which is not rejected: run "
                f"stagefleet delete {repository} {stage_id}"
            )
        reject_stage(self._client, repository, stage_id, project=project, lease=lease)
        forget_rejections(self._shared_state, repository)
        self._remembered.forget(repository, stage_id)

    def refuse_rejected(self, repository: Repository, stage_id: StageId, lease: Lease) -> None:
        """Refuse rejected stages, by a list that the fleet reads now and then: no request per stage.

        Raises:
            StageNotFoundError: The stage is rejected.
        """
        storage = self.storage(repository)
        rejected = self._shared_state.get_or_compute(
            FLEET_NAMESPACE,
            rejections_key(repository),
            lambda: sorted(map(str, storage.rejected_ids())),
            ttl_seconds=_REJECTIONS_SECONDS,
            wait_seconds=_REJECTIONS_WAIT_SECONDS,
            lease=lease,
        )
        if str(stage_id) in rejected:
            raise StageNotFoundError(f"{storage.address} has no stage {stage_id}: it was rejected as broken")
