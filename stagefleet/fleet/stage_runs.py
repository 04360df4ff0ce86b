"""Runs on stages, and reads of stages without a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.errors import StageNotFoundError, UsageError
from stagefleet.fleet.base import FleetBase
from stagefleet.fleet.descriptions import describe_all
from stagefleet.images import StageDescription
from stagefleet.names import Reference, Repository, StageId, StorageAddress
from stagefleet.operations.base import (
    CopyOperation,
    DeleteOperation,
    Operation,
    Plan,
    StageIds,
    parse_repository,
    parse_stage_ids,
    parse_storage,
)
from stagefleet.operations.hosts import HostCopyOperation, HostDeleteOperation
from stagefleet.platforms import Platform
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Run
from stagefleet.storages.isolation import OnLeftOut

__all__ = ["IndexRuns", "StageRuns"]


class StageRuns(FleetBase):
    """List, describe, copy and delete stages."""

    # Stages

    def stage_ids(self, address: StorageAddress | str, *, missing_ok: bool = False) -> Iterator[StageId]:
        """Iterate over the stages of a repository, from its tag list, or of this host's engine.

        Args:
            address: The repository or engine.
            missing_ok: Treat a missing repository as empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: The address is malformed, or its registry rejects the login.
            UnreachableError: The registry or the engine does not answer.
        """
        where = parse_storage(address)
        return self._listed(where, self._services.registries.stage_ids(where), missing_ok=missing_ok)

    def describe_stages(
        self,
        address: StorageAddress | str,
        stage_ids: StageIds | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages, in order, in threads of this process; needs no worker.

        Args:
            address: A repository, or this host's engine.
            stage_ids: The stages; all if None.
            parallel: Stages at once; from the settings if None.
            on_left_out: Called with each skipped stage and the error: `StageNotFoundError` for a stage that
                is gone or rejected, others for a stage that cannot be described; logged if None.
            missing_ok: Treat a missing repository as empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist.
            UsageError: An argument is malformed, or the registry rejects the login.
            StagefleetError: An error that would affect the other stages too, such as an unreachable registry.
        """
        where = parse_storage(address)
        registries = self._services.registries
        find = ping = None
        if stage_ids is None:
            which = self.stage_ids(where, missing_ok=missing_ok)
            if not where.is_on_host:
                find = partial(registries.known_descriptions, where)
        else:
            which = iter([StageId.parse(str(stage_id)) for stage_id in stage_ids])
            on_left_out = self._expecting(where, on_left_out, missing_ok=missing_ok)
        if not where.is_on_host:
            ping = partial(registries.ping, where)
        return describe_all(
            lambda stage_id: registries.describe_stage(where, stage_id),
            which,
            parallel=self._parallel(parallel),
            on_left_out=on_left_out or self._tell_left_out,
            find=find,
            ping=ping,
        )

    def _expecting(
        self, where: StorageAddress, on_left_out: OnLeftOut | None, *, missing_ok: bool
    ) -> OnLeftOut:
        """Wrap `on_left_out` so that the first missing stage checks if the repository exists."""
        tell, looked = on_left_out or self._tell_left_out, False

        def leave_out(stage_id: StageId, error: Exception) -> None:
            nonlocal looked
            if isinstance(error, StageNotFoundError) and not looked:
                looked = True
                self._plan_storages(missing_ok=missing_ok).expect(where)
            tell(stage_id, error)

        return leave_out

    # Runs

    def for_each_copy_stage(
        self,
        source: StorageAddress | str,
        destination: StorageAddress | str,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        verify: bool = False,
        hosts: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
        missing_ok: bool = False,
    ) -> Run:
        """Copy stages; skip those that the destination has.

        Args:
            source: The repository to copy from, or `docker-daemon:PROJECT`.
            destination: The repository to copy to, or `docker-daemon:PROJECT`.
            stage_ids: The stages; all if None.
            on_outcome: Called in this process once for each outcome. The run waits for it: at most `parallel`
                stages are copied and not yet called back for. An exception from it stops the run.
            parallel: Stages at once; from the settings if None, below 1 means 1.
            verify: Compare digests too, and copy again if they differ (image ids, if one end is an engine).
            hosts: The hosts of the engine, if one end is an engine; this host if None.
            idempotency_key: Calls with the same key start one run, see docs/python.md.
            detach: Return at once; the fleet continues alone. Only a `RemoteCallback` works with it.
            missing_ok: Treat a missing source as empty; a destination may be new in any case.

        Returns:
            The finished run; with `detach`, the started one.

        Raises:
            RepositoryNotFoundError: The source does not exist.
            UsageError: An argument is invalid, or the source lacks a named stage; nothing was started.
            UnreachableError: Redis or a registry does not answer, or no worker works.
            Exception: An exception of `on_outcome`.
        """
        operation = self._copy_operation(source, destination, stage_ids, verify=verify, hosts=hosts)
        return self._for_each(
            operation,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            plan_storages=self._plan_storages(missing_ok=missing_ok),
        )

    def for_each_delete_stage(
        self,
        address: StorageAddress | str,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        *,
        hosts: Sequence[str] | None = None,
        policy: InUsePolicy | None = None,
        parallel: int | None = None,
        idempotency_key: str | None = None,
        detach: bool = False,
        missing_ok: bool = False,
    ) -> Run:
        """Delete stages; succeed for those that are already gone.

        Args:
            address: The repository to delete from, or `docker-daemon:PROJECT`.
            stage_ids: The stages; None for all, without a default.
            on_outcome: As in `for_each_copy_stage`, like all arguments below without an explanation.
            hosts: The hosts of the engine, if the place is an engine; this host if None.
            policy: The policy for stages in use in an engine; if None, they fail with `ImageInUseError`.
            parallel: Stages at once.
            idempotency_key: Calls with the same key start one run.
            detach: Return at once.
            missing_ok: Treat a missing repository as empty: there is nothing to delete.

        Returns:
            As `for_each_copy_stage`.

        Raises:
            StagefleetError: As in `for_each_copy_stage`.
        """
        operation = self._delete_operation(address, stage_ids, hosts, policy)
        return self._for_each(
            operation,
            on_outcome,
            parallel=parallel,
            idempotency_key=idempotency_key,
            detach=detach,
            plan_storages=self._plan_storages(missing_ok=missing_ok),
        )

    def plan_copy_stage(
        self,
        source: StorageAddress | str,
        destination: StorageAddress | str,
        stage_ids: StageIds | None = None,
        *,
        verify: bool = False,
        hosts: Sequence[str] | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_copy_stage` with the same arguments; changes nothing."""
        operation = self._copy_operation(source, destination, stage_ids, verify=verify, hosts=hosts)
        return operation.plan(self._plan_storages(missing_ok=missing_ok))

    def plan_delete_stage(
        self,
        address: StorageAddress | str,
        stage_ids: StageIds | None,
        *,
        hosts: Sequence[str] | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_delete_stage`; changes nothing."""
        plan_storages = self._plan_storages(missing_ok=missing_ok)
        return self._delete_operation(address, stage_ids, hosts, None).plan(plan_storages)

    def _copy_operation(
        self,
        source: StorageAddress | str,
        destination: StorageAddress | str,
        stage_ids: StageIds | None,
        *,
        verify: bool,
        hosts: Sequence[str] | None,
    ) -> Operation:
        here, there = parse_storage(source), parse_storage(destination)
        if not here.is_on_host and not there.is_on_host:
            _refuse_hosts(hosts)
            return CopyOperation.of(here, there, stage_ids, verify=verify)
        own, chosen = self.settings.engine.host_name, self.choose_hosts(hosts)
        return HostCopyOperation(here, there, parse_stage_ids(stage_ids), verify, chosen, own)

    def _delete_operation(
        self,
        address: StorageAddress | str,
        stage_ids: StageIds | None,
        hosts: Sequence[str] | None,
        policy: InUsePolicy | None,
    ) -> Operation:
        where = parse_storage(address)
        if not where.is_on_host:
            _refuse_hosts(hosts)
            if policy is not None:
                raise UsageError(f"{where} is no Docker Engine: only there images are in use")
            return DeleteOperation.of(where, stage_ids)
        own, chosen = self.settings.engine.host_name, self.choose_hosts(hosts)
        options = {} if policy is None else policy.as_options()
        return HostDeleteOperation(where, parse_stage_ids(stage_ids), options, chosen, own)


def _refuse_hosts(hosts: Sequence[str] | None) -> None:
    if hosts:
        raise UsageError("a host is named, but no Docker Engine: registries have no hosts")


# Publication of multi-platform stages.


class IndexRuns(FleetBase):
    """Publish multi-platform stages made of platform images; needs no worker."""

    def publish_index(
        self,
        repository: str | Repository,
        stage_id: str | StageId,
        images: Mapping[str | Platform, str | StageId | Reference],
    ) -> dict[str, Any]:
        """Publish an index over platform images; succeed if it already exists.

        Args:
            repository: The repository of the index.
            stage_id: The stage id of the index, a digest alone.
            images: By platform, as `linux/amd64`: a stage of the repository or any image, `REPOSITORY:TAG` or
                `REPOSITORY@DIGEST`. An image of another repository is copied first.

        Returns:
            The description of the stage, as JSON.

        Raises:
            UsageError: A name is malformed, an image is for another platform, or the stage exists with other
                images, or is rejected.
            NotFoundError: An image does not exist.
            LockTimeoutError: A copy or deletion of the stage takes too long.
        """
        where = parse_repository(repository)
        chosen = {
            platform if isinstance(platform, Platform) else Platform.parse(platform): _reference(where, image)
            for platform, image in images.items()
        }
        return self._services.registries.publish_index(
            where, StageId.parse(str(stage_id)), chosen, self._services.locks
        )


def _reference(repository: Repository, image: str | StageId | Reference) -> Reference:
    if isinstance(image, Reference):
        return image
    if isinstance(image, StageId) or StageId.from_tag(image) is not None:
        return repository.tagged(str(image))
    return Reference.parse(image)
