"""Runs between the storages of a project."""

from __future__ import annotations

from typing import Unpack

from stagefleet.fleet.callbacks import HostArguments
from stagefleet.fleet.projects import ProjectOrName, Projects
from stagefleet.operations.base import DeleteOperation, Operation, Plan, StageIds
from stagefleet.operations.projects import (
    CacheOperation,
    DescribeOperation,
    ProjectDeleteOperation,
    PublishDryRun,
    PublishOperation,
    TakeOperation,
)
from stagefleet.project import Project
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Run

__all__ = ["PublishRuns"]

ProjectOperation = (
    DescribeOperation | PublishOperation | CacheOperation | TakeOperation | ProjectDeleteOperation
)


class PublishRuns(Projects):
    """Describe, publish and cache stages of a project, take them from secondaries, delete them everywhere.

    A project is the name of one in the settings, or `Project` with its storages. Every `for_each_...` takes
    `on_outcome`, `parallel` (the project's own limit if None), `idempotency_key`, `detach`, `missing_ok`, and
    `host` if the primary storage is a Docker Engine; it returns and raises as `for_each_copy_stage` does.
    Stage ids of None select all stages. Every `plan_...` plans the run of that name; it changes nothing, and
    needs Redis only to find a host.
    """

    def for_each_describe_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Describe stages of the primary storage, through the caches; the result is the description.

        The fleet caches each one, so that `describe_stages` and `describe_project_stages` find it afterwards.
        A stage that cannot be described fails. For a single storage, also a final one, pass
        `Project.alone(storage)`.
        """
        return self._for_project(
            project, DescribeOperation.of(self.resolve_project(project), stage_ids), on_outcome, arguments
        )

    def plan_describe_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_describe_stage`."""
        operation = DescribeOperation.of(self.resolve_project(project), stage_ids)
        return self._plan(
            operation, operation.project.primary, host, self._storages_of(project, missing_ok=missing_ok)
        )

    def for_each_publish_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        should_be_built: bool = False,
        fill_caches: bool = False,
        image: str | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages from the primary storage into the final one; the result is the description there.

        Stages that the final storage has are skipped.

        Args:
            project: See the class.
            stage_ids: The stages.
            on_outcome: See the class.
            should_be_built: Copy nothing; a stage that the final storage lacks is an error.
            fill_caches: Copy the stages to the caches too; failures there are in the result, and no error.
            image: The name for the stages in the error of `should_be_built`.
            **arguments: See the class.

        Raises:
            UsageError: The project has no final storage; else as `for_each_copy_stage`.
        """
        operation = PublishOperation.of(
            self.resolve_project(project),
            stage_ids,
            should_be_built=should_be_built,
            fill_caches=fill_caches,
            image=image,
        )
        return self._for_project(project, operation, on_outcome, arguments)

    def plan_publish_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        *,
        fill_caches: bool = False,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_publish_stage`; stages on the final storage's tag list are skipped."""
        operation = PublishDryRun.of(
            self.resolve_project(project),
            stage_ids,
            should_be_built=False,
            fill_caches=fill_caches,
            image=None,
        )
        return self._plan(
            operation, operation.project.primary, host, self._storages_of(project, missing_ok=missing_ok)
        )

    def for_each_cache_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages from the primary storage into the caches.

        The result has the state of each stage in each cache; a failure of a cache does not fail the item.
        """
        return self._for_project(
            project, CacheOperation.of(self.resolve_project(project), stage_ids), on_outcome, arguments
        )

    def plan_cache_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_cache_stage`."""
        operation = CacheOperation.of(self.resolve_project(project), stage_ids)
        return self._plan(
            operation, operation.project.primary, host, self._storages_of(project, missing_ok=missing_ok)
        )

    def for_each_take_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages that the primary storage lacks from the secondary ones.

        Args:
            project: See the class.
            stage_ids: The stages; a digest alone selects any stage with it: first the primary's own, then the
                oldest in the first secondary with one. If None, all digests that the primary lacks.
            on_outcome: See the class.
            **arguments: See the class.
        """
        return self._for_project(
            project, TakeOperation.of(self.resolve_project(project), stage_ids), on_outcome, arguments
        )

    def plan_take_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_take_stage`."""
        operation = TakeOperation.of(self.resolve_project(project), stage_ids)
        return self._plan(
            operation, operation.project.primary, host, self._storages_of(project, missing_ok=missing_ok)
        )

    def for_each_delete_project_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete stages from every cache, where failures are warnings, then from the primary."""
        operation = ProjectDeleteOperation.of(self.resolve_project(project), stage_ids)
        return self._for_project(project, operation, on_outcome, arguments)

    def plan_delete_project_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """Plan `for_each_delete_project_stage`."""
        operation = ProjectDeleteOperation.of(self.resolve_project(project), stage_ids)
        return self._plan(
            operation, operation.project.primary, host, self._storages_of(project, missing_ok=missing_ok)
        )

    def for_each_delete_final_stage(
        self,
        project: ProjectOrName,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete stages from the final storage."""
        operation = DeleteOperation.of(self.final_repository(project), stage_ids)
        placed = self._placed(operation, operation.repository, arguments.get("host"))
        return self._start(project, placed, on_outcome, arguments)

    def plan_delete_final_stage(
        self, project: ProjectOrName, stage_ids: StageIds | None, *, missing_ok: bool = False
    ) -> Plan:
        """Plan `for_each_delete_final_stage`."""
        plan_storages = self._storages_of(project, missing_ok=missing_ok)
        return DeleteOperation.of(self.final_repository(project), stage_ids).plan(plan_storages)

    def _for_project(
        self,
        project: ProjectOrName,
        operation: ProjectOperation,
        on_outcome: OnOutcome | None,
        arguments: HostArguments,
    ) -> Run:
        placed = self._placed(operation, operation.project.primary, arguments.get("host"))
        return self._start(project, placed, on_outcome, arguments)

    def _start(
        self,
        project: ProjectOrName,
        operation: Operation,
        on_outcome: OnOutcome | None,
        arguments: HostArguments,
    ) -> Run:
        parallel = arguments.get("parallel")
        if parallel is None and not isinstance(project, Project):
            parallel = self.settings.project(project).parallel
        return self._for_each(
            operation,
            on_outcome,
            parallel=parallel,
            idempotency_key=arguments.get("idempotency_key"),
            detach=arguments.get("detach", False),
            plan_storages=self._storages_of(project, missing_ok=arguments.get("missing_ok", False)),
        )
