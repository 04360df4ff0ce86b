"""A project of a fleet: its storages, and the runs between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Unpack

from stagefleet.connections import Connections
from stagefleet.fleet import chains
from stagefleet.fleet.callbacks import OutcomeCallback, RemoteCallback, RunArguments, StartArguments
from stagefleet.fleet.storage_reader import RunPlans, StorageReader, StorageState
from stagefleet.images import StageDescription
from stagefleet.names import Repository, StageId
from stagefleet.operations import delete, describe, publish
from stagefleet.operations.base import Operation, Plan
from stagefleet.operations.catalog import parse_operation
from stagefleet.operations.copy import CopyOperation
from stagefleet.project_addresses import (
    DeployedImage,
    Items,
    Project,
    TagRule,
    deployed_image,
    parse_repository,
)
from stagefleet.runs.models import Run, RunState
from stagefleet.storages.isolation import OnLeftOut

if TYPE_CHECKING:
    from stagefleet.fleet.fleet import Fleet
    from stagefleet.projects.lookup import StageLookup  # imports the registry client
    from stagefleet.projects.purge_plan import PurgePlan
    from stagefleet.registry.referrers import Referrer


class FleetProject:
    """Describe, publish, cache, delete and purge the stages of a project, and take them from secondaries.

    Every `for_each_...` takes, returns and raises what `Fleet.for_each` does, and takes `host` if the primary
    storage is a Docker Engine. Stage ids of None select all stages.

    Args:
        parallel: The project's limit of items at once; the fleet's if None.
        is_set_up: True for a project of the settings: while one of its storages exists, others may be new.
    """

    def __init__(
        self,
        fleet: Fleet,
        connections: Connections,
        reader: StorageReader,
        plans: RunPlans,
        run_chains: chains.RunChains,
        *,
        storages: Project,
        parallel: int | None = None,
        is_set_up: bool = False,
    ) -> None:
        self.storages = storages
        self.parallel = parallel
        self._fleet = fleet
        self._connections = connections
        self._reader = reader
        self._mirrors = chains.MirrorStarter(run_chains, plans, reader)
        max_attempts = connections.settings.runs.max_attempts
        self._purges = chains.PurgeStarter(run_chains, storages, plans.choose_hosts, max_attempts)
        is_set_up = is_set_up or bool(storages.secondaries)
        self._beside = tuple(address for _, address in storages.storages()) if is_set_up else ()

    # Every run

    def for_each(
        self,
        operation: Operation,
        stage_ids: Items | None = None,
        on_outcome: OutcomeCallback = None,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Execute an operation as `Fleet.for_each` does, with the project's own limit of items at once."""
        run = RunArguments(beside=self._beside, **run)
        if run.get("parallel") is None:
            run["parallel"] = self.parallel
        return self._fleet.for_each(operation, stage_ids, on_outcome, **run)

    def start(
        self,
        operation: Operation,
        stage_ids: Items | None = None,
        callback: RemoteCallback | None = None,
        **run: Unpack[StartArguments],
    ) -> Run:
        """Start a run as `Fleet.start` does, with the project's own limit of items at once."""
        return self.for_each(operation, stage_ids, callback, **run, detach=True)

    def plan(self, operation: Operation, stage_ids: Items | None = None, *, missing_ok: bool = False) -> Plan:
        """Plan a run as `Fleet.plan` does."""
        return self._fleet.plan(operation, stage_ids, missing_ok=missing_ok, beside=self._beside)

    def for_each_describe_stage(
        self, stage_ids: Items | None = None, on_outcome: OutcomeCallback = None, **run: Unpack[RunArguments]
    ) -> Run:
        """Describe stages of the primary storage, through the caches; the result is the description.

        The fleet caches each one, so that both `describe_stages` find it afterwards. A stage that cannot be
        described fails. For a single storage, also a final one, use the project `Project.alone(storage)`.
        """
        return self.for_each(describe.DescribeOperation.of(self.storages), stage_ids, on_outcome, **run)

    def for_each_publish_stage(
        self,
        stage_ids: Items | None = None,
        on_outcome: OutcomeCallback = None,
        *,
        should_be_built: bool = False,
        fill_caches: bool = False,
        image: str | None = None,
        referrers: bool = True,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Copy stages from the primary storage into the final one, unless it has them.

        The result is the description there. A project without a final storage is a `UsageError`.

        Args:
            should_be_built: Copy nothing; a stage that the final storage lacks is an error.
            fill_caches: Copy the stages to the caches too; failures there are in the result, and no error.
            image: The name for the stages in the error of `should_be_built`.
            referrers: Copy what refers to the stages, too, as their signatures (docs/referrers.md).
        """
        operation = publish.PublishOperation.of(
            self.storages,
            should_be_built=should_be_built,
            fill_caches=fill_caches,
            image=image,
            referrers=referrers,
        )
        return self.for_each(operation, stage_ids, on_outcome, **run)

    def for_each_cache_stage(
        self, stage_ids: Items | None = None, on_outcome: OutcomeCallback = None, **run: Unpack[RunArguments]
    ) -> Run:
        """Copy stages from the primary storage into the caches.

        The result has the state of each stage in each cache; a failure of a cache does not fail the item.
        """
        return self.for_each(publish.CacheOperation.of(self.storages), stage_ids, on_outcome, **run)

    def for_each_take_stage(
        self, stage_ids: Items | None = None, on_outcome: OutcomeCallback = None, **run: Unpack[RunArguments]
    ) -> Run:
        """Copy stages that the primary storage lacks from the secondary ones.

        A digest alone selects any stage with it: first the primary's own, then the oldest in the first
        secondary with one. Stage ids of None select all digests that the primary lacks.
        """
        return self.for_each(publish.TakeOperation.of(self.storages), stage_ids, on_outcome, **run)

    def for_each_delete_stage(
        self,
        stage_ids: Items | None,
        on_outcome: OutcomeCallback = None,
        *,
        referrers: bool = False,
        **run: Unpack[RunArguments],
    ) -> Run:
        """Delete stages from every cache, where failures are warnings, then from the primary."""
        return self.for_each(self.deletion(referrers=referrers), stage_ids, on_outcome, **run)

    def for_each_delete_final_stage(
        self, stage_ids: Items | None, on_outcome: OutcomeCallback = None, **run: Unpack[RunArguments]
    ) -> Run:
        """Delete stages from the final storage."""
        operation = delete.DeleteOperation(repository=self.storages.final_repository)
        return self.for_each(operation, stage_ids, on_outcome, **run)

    def deletion(self, hosts: tuple[str, ...] = (), *, referrers: bool = False) -> delete.DeleteOperation:
        """Return the operation that deletes stages from the caches and the primary storage."""
        primary, caches = self.storages.primary, self.storages.caches
        return delete.DeleteOperation(repository=primary, caches=caches, hosts=hosts, referrers=referrers)

    # The storages, without a run

    @property
    def lookup(self) -> StageLookup:
        """The look-ups in this process, which find and select stages."""
        return self._connections.storages.lookup(self.storages)

    def deployed_image(self, image: str, stage_id: StageId, tag_rule: TagRule | None = None) -> DeployedImage:
        """Return the name that deployments use for a stage; see `deployed_image`."""
        return deployed_image(self.storages, image, stage_id, tag_rule)

    def exists(self) -> bool:
        """Return True if one of the storages exists, is an engine, or does not answer."""
        may_exist = self._reader.plan_storages().may_exist
        return any(may_exist(address) for _, address in self.storages.storages())

    def storage_states(self) -> list[StorageState]:
        """Return the state of each storage; the storages are read in parallel."""
        return self._reader.storage_states(self.storages)

    def stage_ids(self, *, missing_ok: bool = False) -> Iterator[StageId]:
        """Iterate over the stages of the primary storage, from its tag list.

        Raises:
            RepositoryNotFoundError: None of the storages exists; while one does, others may be new.
        """
        found = iter(self.lookup.stage_ids())
        return self._reader.expecting(
            self.storages.primary, found, missing_ok=missing_ok, beside=self._beside
        )

    def describe_stages(
        self,
        stage_ids: Iterable[StageId] | None = None,
        *,
        parallel: int | None = None,
        on_left_out: OnLeftOut | None = None,
        missing_ok: bool = False,
    ) -> Iterator[StageDescription]:
        """Describe stages of the primary storage, through the caches; see `Fleet.describe_stages`."""
        return self._reader.describe(
            self.storages.primary,
            self.lookup.describe,
            self.stage_ids(missing_ok=missing_ok) if stage_ids is None else stage_ids,
            is_list=stage_ids is None,
            parallel=parallel,
            on_left_out=on_left_out,
        )

    # Mirrors

    def referrers(
        self, stage_ids: Items | None = None, *, parallel: int | None = None, missing_ok: bool = False
    ) -> Iterator[tuple[StageId, list[Referrer]]]:
        """Iterate over stages of the primary storage, a repository, with what refers to each; in order.

        Needs no worker; errors are as of `Fleet.describe_stages`.
        """
        repository = parse_repository(self.storages.primary)
        return self._reader.referrers(repository, stage_ids, parallel=parallel, missing_ok=missing_ok)

    def plan_mirror(
        self,
        destination: str | Repository,
        *,
        verify: bool = False,
        foreign_layers: bool = False,
        referrers: bool = False,
        max_percent: float = 10.0,
    ) -> chains.MirrorPlan:
        """Plan a mirror as `start_mirror` would start it; changes nothing, needs no Redis."""
        copy = self._copy_into(destination, verify=verify, foreign_layers=foreign_layers, referrers=referrers)
        return self._mirrors.plan(copy, max_percent)

    def start_mirror(
        self,
        destination: str | Repository,
        callback: RemoteCallback | None = None,
        *,
        verify: bool = False,
        foreign_layers: bool = False,
        referrers: bool = False,
        max_percent: float = 10.0,
        parallel: int | None = None,
        idempotency_key: str | None = None,
    ) -> chains.Mirror:
        """Start a copy of all stages of the primary storage, and the deletion of the others after it.

        The deletion starts when the copy has succeeded. Before a stage is deleted, the primary storage is
        asked for it once more.

        Args:
            callback: What the fleet calls for each outcome of both runs, and at the end of each.
            verify: Compare digests too, and copy again if they differ.
            foreign_layers: Send layers, too, that are marked as to be had elsewhere.
            referrers: Copy what refers to the stages, too, and delete what refers to those that go.
            max_percent: The largest part of the destination's stages that may go; if there are more, the
                mirror has a `refusal`, and none goes.
            idempotency_key: Calls with the same key start one mirror; another after one that failed.

        Raises:
            UsageError: One of the two is no repository, or the primary storage lists no stages.
            KeyConflictError: The key was used for other work.
            UnreachableError: Redis or a registry does not answer.
        """
        copy = self._copy_into(destination, verify=verify, foreign_layers=foreign_layers, referrers=referrers)
        limit = self.parallel if parallel is None else parallel
        return self._mirrors.start(copy, callback, max_percent, parallel=limit, key=idempotency_key)

    def _copy_into(
        self, destination: str | Repository, *, verify: bool, foreign_layers: bool, referrers: bool
    ) -> CopyOperation:
        return CopyOperation(
            source=self.storages.primary,
            destination=parse_repository(destination),
            verify=verify,
            foreign_layers=foreign_layers,
            referrers=referrers,
        )

    # Purges

    def plan_purge(
        self,
        *,
        policy: delete.InUsePolicy | None = None,
        referrers: bool = False,
        sized: bool = True,
        missing_ok: bool = False,
    ) -> PurgePlan:
        """Plan a purge, by groups; changes nothing, needs no Redis.

        The order is: stages, import metadata, managed images, image metadata, custom tags, rejected stages,
        final stages. An engine is the one of this host: what another host's has is not known here.

        Args:
            policy: The policy for stages in use in an engine; if None, they fail with `ImageInUseError`.
            referrers: Delete what refers to the stages, too, as their signatures (docs/referrers.md).
            sized: Compute the bytes that only each group uses; one request per manifest.

        Raises:
            RepositoryNotFoundError: None of the storages exists.
            UsageError: A policy is given without an engine, or `referrers` without a repository.
            EngineNotFoundError: The primary storage is a Docker Engine, and this host has none.
        """
        plan = self._connections.storages.plan_purge(
            self.storages, policy=policy, referrers=referrers, sized=sized
        )
        if not plan and not plan.unknown and not plan.kept:
            storages = self._reader.plan_storages(missing_ok=missing_ok, beside=self._beside)
            storages.expect(self.storages.primary)
        return plan

    def start_purge(
        self,
        plan: PurgePlan,
        callback: RemoteCallback | None = None,
        *,
        parallel: int | None = None,
        idempotency_key: str | None = None,
    ) -> list[chains.PurgedGroup]:
        """Start a purge, and return its groups at once: the fleet starts each when the one before has ended.

        Failures in a group do not stop the purge; the cancellation of a run cancels those after it.

        Args:
            callback: What the fleet calls for each outcome of each run, and at the end of each.
            parallel: Items at once; the project's own limit, or the settings', if None.
            idempotency_key: Calls with the same key start one purge; after one that did not succeed, another.

        Raises:
            KeyConflictError: The key was used for another project.
            UnreachableError: Redis does not answer.
        """
        limit = self._connections.settings.runs.parallel if self.parallel is None else self.parallel
        return self._purges.start(
            plan, callback, parallel=max(1, limit if parallel is None else parallel), key=idempotency_key
        )

    def purge_under(self, idempotency_key: str) -> list[chains.PurgedGroup] | None:
        """Return the last purge that was started with a key; None if there is none that goes on or succeeded.

        Errors are as of `start_purge`.
        """
        return self._purges.find(idempotency_key)

    def purge(
        self,
        on_outcome: OutcomeCallback = None,
        *,
        on_group: chains.OnGroup | None = None,
        policy: delete.InUsePolicy | None = None,
        referrers: bool = False,
        parallel: int | None = None,
        missing_ok: bool = False,
    ) -> list[chains.PurgedGroup]:
        """Delete everything in the project, and return the processed groups; keep unknown tags.

        What is already gone is no failure. Failures in a group do not stop the purge; cancellation, and the
        end of this process, do. `on_group` is called after each group.

        Raises:
            UsageError: As in `plan_purge`; nothing was started.
            UnreachableError: Redis or a registry does not answer, or no worker works.
            Exception: An exception of a callback.
        """
        done: list[chains.PurgedGroup] = []
        plan = self.plan_purge(policy=policy, referrers=referrers, sized=False, missing_ok=missing_ok)
        for group in plan.groups:
            run = None
            if group.items:
                operation = parse_operation(group.operation, group.options)
                run = self.for_each(operation, group.items, on_outcome, parallel=parallel, missing_ok=True)
            done.append(chains.PurgedGroup(group.name, str(group.repository), run, group.size))
            if on_group is not None:
                on_group(done[-1])
            if run is not None and run.state is RunState.CANCELLED:
                break
        return done
