"""Runs between the storages of a project."""

from __future__ import annotations

from typing import Unpack

from stagefleet.client.arguments import HostArguments
from stagefleet.client.project_work import (
    CacheWork,
    DescribeWork,
    ProjectDeleteWork,
    PublishForecast,
    PublishWork,
    TakeWork,
)
from stagefleet.client.projects import Project, Projects
from stagefleet.client.work import DeleteWork, Plan, StageIds, Work
from stagefleet.roles import Roles
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run

__all__ = ["PublishRuns"]


ProjectWork = DescribeWork | PublishWork | CacheWork | TakeWork | ProjectDeleteWork


class PublishRuns(Projects):
    """Stages of a project described, published, put into caches, taken from secondaries, deleted everywhere.

    A project is the name of one in the settings, or `Roles` that say which storages it has. Every
    `for_each_...` takes `on_outcome`, `parallel` (the project's own limit if None), `idempotency_key`,
    `detach`, `missing_ok`, and `host` where the primary storage is a Docker Engine; it returns and raises as
    `for_each_copy_stage` does. None in place of stage ids is all of them. Every `plan_...` says what the run
    of that name would do; it changes nothing, and needs Redis only where it has to find a host.
    """

    def for_each_describe_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Describe stages of the primary storage, through the caches; the result is the description.

        The fleet remembers each: `describe_stages` and `describe_project_stages` find it afterwards. What
        cannot be described fails. For a storage by itself, the final one too, hand in `Roles.alone(storage)`.
        """
        return self._for_project(
            project, DescribeWork.of(self.roles(project), stage_ids), on_outcome, arguments
        )

    def plan_describe_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """See the class."""
        work = DescribeWork.of(self.roles(project), stage_ids)
        return self._plan(work, work.roles.primary, host, self._storages_of(project, missing_ok=missing_ok))

    def for_each_publish_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        *,
        should_be_built: bool = False,
        fill_caches: bool = False,
        image: str | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages from the primary storage into the final one; the result is the description there.

        What the final storage has already is skipped.

        Args:
            project: See the class.
            stage_ids: Which.
            on_outcome: See the class.
            should_be_built: What the final storage lacks is an error, and nothing is copied there.
            fill_caches: The caches get the stages too; what fails there is told in the result, no error.
            image: What the stages are called in the error of `should_be_built`.
            **arguments: See the class.

        Raises:
            UsageError: The project has no final storage; else as `for_each_copy_stage`.
        """
        work = PublishWork.of(
            self.roles(project),
            stage_ids,
            should_be_built=should_be_built,
            fill_caches=fill_caches,
            image=image,
        )
        return self._for_project(project, work, on_outcome, arguments)

    def plan_publish_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        *,
        fill_caches: bool = False,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """See the class; what the final storage has on its tag list is skipped."""
        work = PublishForecast.of(
            self.roles(project), stage_ids, should_be_built=False, fill_caches=fill_caches, image=None
        )
        return self._plan(work, work.roles.primary, host, self._storages_of(project, missing_ok=missing_ok))

    def for_each_cache_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages from the primary storage into the caches.

        The result says what became of each in each cache; a cache that fails does not fail the item.
        """
        return self._for_project(project, CacheWork.of(self.roles(project), stage_ids), on_outcome, arguments)

    def plan_cache_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """See the class."""
        work = CacheWork.of(self.roles(project), stage_ids)
        return self._plan(work, work.roles.primary, host, self._storages_of(project, missing_ok=missing_ok))

    def for_each_take_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Copy stages that the primary storage lacks out of the secondary ones.

        Args:
            project: See the class.
            stage_ids: Which; a digest alone stands for any stage of it: the primary's own come first, then
                the oldest of the first secondary that has one. All digests that it lacks if None.
            on_outcome: See the class.
            **arguments: See the class.
        """
        return self._for_project(project, TakeWork.of(self.roles(project), stage_ids), on_outcome, arguments)

    def plan_take_stage(
        self,
        project: Project,
        stage_ids: StageIds | None = None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """See the class."""
        work = TakeWork.of(self.roles(project), stage_ids)
        return self._plan(work, work.roles.primary, host, self._storages_of(project, missing_ok=missing_ok))

    def for_each_delete_project_stage(
        self,
        project: Project,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete stages out of every cache, where failures are warnings, then out of the primary."""
        work = ProjectDeleteWork.of(self.roles(project), stage_ids)
        return self._for_project(project, work, on_outcome, arguments)

    def plan_delete_project_stage(
        self,
        project: Project,
        stage_ids: StageIds | None,
        *,
        host: str | None = None,
        missing_ok: bool = False,
    ) -> Plan:
        """See the class."""
        work = ProjectDeleteWork.of(self.roles(project), stage_ids)
        return self._plan(work, work.roles.primary, host, self._storages_of(project, missing_ok=missing_ok))

    def for_each_delete_final_stage(
        self,
        project: Project,
        stage_ids: StageIds | None,
        on_outcome: OnOutcome | None = None,
        **arguments: Unpack[HostArguments],
    ) -> Run:
        """Delete stages out of the final storage."""
        work = DeleteWork.of(self.final_repository(project), stage_ids)
        placed = self._placed(work, work.repository, arguments.get("host"))
        return self._start(project, placed, on_outcome, arguments)

    def plan_delete_final_stage(
        self, project: Project, stage_ids: StageIds | None, *, missing_ok: bool = False
    ) -> Plan:
        """See the class."""
        catalogue = self._storages_of(project, missing_ok=missing_ok)
        return DeleteWork.of(self.final_repository(project), stage_ids).plan(catalogue)

    def _for_project(
        self, project: Project, work: ProjectWork, on_outcome: OnOutcome | None, arguments: HostArguments
    ) -> Run:
        placed = self._placed(work, work.roles.primary, arguments.get("host"))
        return self._start(project, placed, on_outcome, arguments)

    def _start(
        self, project: Project, work: Work, on_outcome: OnOutcome | None, arguments: HostArguments
    ) -> Run:
        parallel = arguments.get("parallel")
        if parallel is None and not isinstance(project, Roles):
            parallel = self.settings.project(project).parallel
        return self._for_each(
            work,
            on_outcome,
            parallel=parallel,
            idempotency_key=arguments.get("idempotency_key"),
            detach=arguments.get("detach", False),
            catalogue=self._storages_of(project, missing_ok=arguments.get("missing_ok", False)),
        )
