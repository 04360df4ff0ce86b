"""Purges: everything of a project deleted, group after group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.client.projects import Project, Projects
from stagefleet.client.work import Catalogue, Plan, bounded
from stagefleet.names import DockerDaemon, Repository
from stagefleet.roles import Roles
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run, RunState
from stagefleet.use_policy import UsePolicy

if TYPE_CHECKING:
    from stagefleet.manager.purge import PurgeGroup, PurgePlan  # brings the client of registries

__all__ = ["PurgeRuns", "PurgedGroup"]

OnGroup = Callable[["PurgedGroup"], None]
Purgeable = Project | Repository | DockerDaemon


@dataclass(frozen=True, slots=True)
class PurgedGroup:
    """A group of a purge that is done with.

    Attributes:
        group: What was to go.
        run: The run as it ended; None where the group was empty.
    """

    group: PurgeGroup
    run: Run | None


@dataclass(frozen=True, slots=True)
class _GroupWork:
    """The run of one group."""

    group: PurgeGroup

    @property
    def operation(self) -> str:
        return self.group.operation

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.group.options)

    @property
    def stage_ids(self) -> tuple[str, ...]:
        return self.group.items

    def plan(self, catalogue: Catalogue) -> Plan:
        if isinstance(self.group.repository, Repository):
            catalogue.ping(self.group.repository)
        return Plan(bounded(self.group.items))


class PurgeRuns(Projects):
    """Projects purged.

    In this order: stages, import metadata, managed images, image metadata, custom tags, rejected stages,
    final stages. A project is the name of one in the settings, or `Roles` that say which storages it has; a
    repository or `DockerDaemon` alone is the project of its name, with that as its primary storage. An engine
    is that of this host: what another host's has is not known here.
    """

    def plan_purge(
        self,
        project: Purgeable,
        *,
        policy: UsePolicy | None = None,
        sized: bool = True,
        missing_ok: bool = False,
    ) -> PurgePlan:
        """What a purge would delete, grouped; changes nothing, needs no Redis.

        Args:
            project: See the class.
            policy: What to do with stages in an engine that are used; where None, they fail with
                `ImageInUseError`.
            sized: Say also how many bytes each group holds alone; a request for each manifest.
            missing_ok: Take a repository that does not exist for empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist, or none of the project's storages.
            UsageError: There is no such project, or a policy for what is no engine.
            EngineMissingError: Its primary storage is a Docker Engine, and there is none here.
        """
        storages = self._storages(project)
        plan = self._services.registries.plan_purge(storages, policy=policy, sized=sized)
        if not plan and not plan.unknown and not plan.kept:
            beside = () if isinstance(project, Repository | DockerDaemon) else self._beside(project)
            self._catalogue(missing_ok=missing_ok, beside=beside).expect(storages.primary)
        return plan

    def purge_group(
        self,
        group: PurgeGroup,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Delete one group of a plan; arguments, return and errors as of `for_each_delete_stage`."""
        work = self._placed(_GroupWork(group), group.repository, None)
        return self._for_each(work, on_outcome, parallel=parallel, idempotency_key=None, detach=detach)

    def purge(
        self,
        project: Purgeable,
        on_outcome: OnOutcome | None = None,
        *,
        on_group: OnGroup | None = None,
        policy: UsePolicy | None = None,
        parallel: int | None = None,
        missing_ok: bool = False,
    ) -> list[PurgedGroup]:
        """Delete everything of a project; what is gone already is a success, tags of nobody stay.

        A group with failures does not keep the next from going; a cancelled one does.

        Args:
            project: See the class.
            on_outcome: Called once for each outcome of each group; what it raises ends the purge.
            on_group: Called after each group.
            policy: As in `plan_purge`.
            parallel: Items at once; the project's own limit, or the settings', if None.
            missing_ok: As in `plan_purge`.

        Returns:
            The groups that were gone through, in order.

        Raises:
            UsageError: As `plan_purge`; nothing was started.
            UnreachableError: Redis or a registry does not answer, or nobody works.
            Exception: What a callback raised.
        """
        if parallel is None and isinstance(project, str):
            parallel = self.settings.project(project).parallel
        done: list[PurgedGroup] = []
        plan = self.plan_purge(project, policy=policy, sized=False, missing_ok=missing_ok)
        for group in plan.groups:
            run = self.purge_group(group, on_outcome, parallel=parallel) if group.items else None
            done.append(PurgedGroup(group, run))
            if on_group is not None:
                on_group(done[-1])
            if run is not None and run.state is RunState.CANCELLED:
                break
        return done

    def _storages(self, project: Purgeable) -> Roles:
        if isinstance(project, Repository | DockerDaemon):
            return Roles.alone(project)
        return self.roles(project)
