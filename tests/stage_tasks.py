"""The work of one worker process on stages and records, without a ledger: tasks, called with attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import EngineNotFoundError
from stagefleet.fleet_registries import Registries
from stagefleet.images import PlatformSelection, StageDescription
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.locks import LockManager, MemoryLocks
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.base import Plan, PlanStorages
from stagefleet.operations.delete import InUsePolicy
from stagefleet.operations.describe import DescribeOperation
from stagefleet.operations.fetch import FetchOperation
from stagefleet.operations.publish import TakeOperation
from stagefleet.project_addresses import DeployedImage, Project, TagRule, deployed_image
from stagefleet.projects.lookup import StageLookup
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag, Record
from stagefleet.registry.client import RegistryClient
from stagefleet.shared_state.base import SharedState
from stagefleet.shared_state.implementations import MemorySharedState
from stagefleet.shared_state.remembered_stages import RememberedStages
from stagefleet.storages.base import StoredRecord, WriteResult
from stagefleet.storages.docker_engine import EngineHost
from stagefleet.storages.storages import Storages
from tasks import records as record_tasks
from tasks.copy import copy_stage
from tasks.delete import delete_stage
from tasks.fetch import fetch_stage
from tasks.publish import cache_stage, publish_stage, take_stage

__all__ = ["ProjectTasks", "RecordTasks", "StageTasks", "make_storages"]

ToDelete = Callable[[], Iterable[str]]


def make_storages(
    client: RegistryClient,
    shared_state: SharedState | None = None,
    remembered: RememberedStages | None = None,
    *,
    locks: LockManager | None = None,
    host: EngineHost | None = None,
) -> Storages:
    """Create the storages of one process; what is not handed in is this process's own."""
    registries = Registries(
        client,
        MemorySharedState() if shared_state is None else shared_state,
        StageLocks(MemoryLocks() if locks is None else locks, host="here"),
        RememberedStages() if remembered is None else remembered,
    )

    def open_host() -> EngineHost:
        if host is None:
            raise EngineNotFoundError("there is no Docker Engine here")
        return host

    return Storages(registries, open_host)


class StageTasks:
    """The tasks of one process; arguments as of `make_storages`."""

    def __init__(
        self, client: RegistryClient, shared_state: SharedState | None = None, *more: Any, **parts: Any
    ) -> None:
        self.storages = make_storages(client, shared_state, *more, **parts)
        self.records = RecordTasks(self.storages)

    @property
    def stage_locks(self) -> StageLocks:
        return self.storages.registries.stage_locks

    def stage_ids(self, address: StorageAddress) -> Iterator[StageId]:
        return iter(self.storages.open(address).stage_ids())

    def describe_stage(self, address: StorageAddress, stage_id: StageId) -> StageDescription:
        return self.storages.open(address).describe(stage_id)

    def copy_stage(
        self,
        source: StorageAddress,
        destination: StorageAddress,
        stage_id: StageId,
        *,
        run_id: str,
        lease: Lease = NO_LEASE,
        continues: bool = False,
        **more: Any,
    ) -> ItemResult:
        options = {"source": str(source), "destination": str(destination), **more}
        attempt = Attempt(run_id, str(stage_id), options, lease, continues=continues)
        return copy_stage(self.storages, attempt)

    def delete_stage(
        self,
        address: StorageAddress,
        stage_id: StageId,
        policy: InUsePolicy | None = None,
        *,
        run_id: str,
        to_delete: ToDelete = tuple,
        lease: Lease = NO_LEASE,
        **more: Any,
    ) -> ItemResult:
        options = {"repository": str(address), **({} if policy is None else policy.as_options()), **more}
        return delete_stage(self.storages, Attempt(run_id, str(stage_id), options, lease, to_delete))

    def fetch_stage(
        self,
        project: Project,
        stage_id: StageId,
        platforms: PlatformSelection,
        *,
        run_id: str,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        options = FetchOperation.of(project, platforms).options
        return fetch_stage(self.storages, Attempt(run_id, str(stage_id), options, lease))

    def project(self, project: Project) -> ProjectTasks:
        return ProjectTasks(self.storages, project)


@dataclass(frozen=True, slots=True)
class ProjectTasks:
    """The tasks on a project's stages, and its look-ups."""

    storages: Storages
    project: Project

    @property
    def lookup(self) -> StageLookup:
        return StageLookup(self.storages, self.project)

    def publish_stage(
        self, stage_id: StageId, *, run_id: str, lease: Lease = NO_LEASE, **options: Any
    ) -> ItemResult:
        return publish_stage(self.storages, self._attempt(stage_id, run_id, lease, options))

    def cache_stage(self, stage_id: StageId, *, run_id: str, lease: Lease = NO_LEASE) -> ItemResult:
        return cache_stage(self.storages, self._attempt(stage_id, run_id, lease))

    def take_stage(self, stage_id: StageId, *, run_id: str, lease: Lease = NO_LEASE) -> ItemResult:
        return take_stage(self.storages, self._attempt(stage_id, run_id, lease))

    def plan_take(self, digest: str) -> Plan:
        open_storage = self.storages.open
        looked_at = PlanStorages(
            lambda address: open_storage(address).stage_ids(),
            lambda address, kind: open_storage(address).records.ids(kind),
            lambda repository: open_storage(repository).check(),
            lambda repository: open_storage(repository).exists(),
            print,
            "",
            lambda calls: [call(NO_LEASE) for call in calls],
        )
        return TakeOperation.of(self.project).plan([digest], looked_at)

    def deployed_repository(self) -> str:
        return self.project.deployed.image_name

    def deployed_image(self, image: str, stage_id: StageId, tag_rule: TagRule | None = None) -> DeployedImage:
        return deployed_image(self.project, image, stage_id, tag_rule)

    def _attempt(
        self, item: StageId | str, run_id: str, lease: Lease, options: dict[str, Any] | None = None
    ) -> Attempt:
        return Attempt(
            run_id, str(item), {**DescribeOperation.of(self.project).options, **(options or {})}, lease
        )


@dataclass(frozen=True, slots=True)
class RecordTasks:
    """The tasks on records, and what clients do with them."""

    storages: Storages

    def ids(
        self,
        repository: Repository,
        kind: RecordKind | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
    ) -> Iterator[RecordId]:
        return self.storages.open(repository).records.ids(kind, on_unknown=on_unknown)

    def read(self, repository: Repository, record_id: RecordId) -> StoredRecord | None:
        return self.storages.open(repository).records.read(record_id)

    def write(
        self, repository: Repository, project: str, record: Record, *, force: bool = False
    ) -> WriteResult:
        return self.storages.open(repository).records.write(record, project=project, force=force)

    def add_custom_tag(
        self, repository: Repository, project: str, custom: CustomTag, *, final: Repository | None = None
    ) -> WriteResult:
        return self.storages.open(repository).records.add_custom_tag(custom, project=project, final=final)

    def check_custom_tag(
        self, repository: Repository, tag: str, stage_id: StageId, *, final: Repository | None = None
    ) -> None:
        self.storages.open(repository).records.check_custom_tag(CustomTag(tag, stage_id), final=final)

    def delete(
        self,
        repository: Repository,
        record_id: RecordId,
        *,
        run_id: str,
        to_delete: ToDelete,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        attempt = Attempt(run_id, lease=lease, to_delete=to_delete)
        return self.storages.open(repository).records.delete(record_id, attempt)

    def delete_image_metadata(
        self, repository: Repository, image: str, item: str, *, run_id: str
    ) -> ItemResult:
        attempt = self._attempt(repository, item, run_id, NO_LEASE, lambda: [item], image=image)
        return record_tasks.rm_image_metadata(self.storages, attempt)

    def delete_rejected_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: ToDelete,
        lease: Lease = NO_LEASE,
        **options: bool,
    ) -> ItemResult:
        attempt = self._attempt(repository, str(stage_id), run_id, lease, to_delete, **options)
        return record_tasks.delete_rejected_stage(self.storages, attempt)

    def delete_custom_tag(
        self,
        repository: Repository,
        record_id: RecordId,
        *,
        run_id: str,
        to_delete: ToDelete,
        final: Repository | None = None,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        options = {} if final is None else {"final": str(final)}
        attempt = self._attempt(repository, str(record_id.item), run_id, lease, to_delete, **options)
        return record_tasks.delete_stage_custom_tag(self.storages, attempt)

    def _attempt(
        self,
        repository: Repository,
        item: str,
        run_id: str,
        lease: Lease,
        to_delete: ToDelete,
        **options: Any,
    ) -> Attempt:
        return Attempt(run_id, item, {"repository": str(repository), **options}, lease, to_delete)
