"""Purges: the deletion of everything in a project, group by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.fleet.projects import ProjectOrName, Projects
from stagefleet.names import StorageAddress
from stagefleet.operations.base import Plan, PlanStorages, bounded
from stagefleet.project import Project
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.models import Run, RunState

if TYPE_CHECKING:
    from stagefleet.projects.purge import PurgeGroup, PurgePlan  # imports the registry client

__all__ = ["PurgeRuns", "PurgedGroup"]

OnGroup = Callable[["PurgedGroup"], None]
Purgeable = ProjectOrName | StorageAddress


@dataclass(frozen=True, slots=True)
class PurgedGroup:
    """A finished group of a purge.

    Attributes:
        group: The group.
        run: The finished run; None for an empty group.
    """

    group: PurgeGroup
    run: Run | None


@dataclass(frozen=True, slots=True)
class _GroupOperation:
    """The run of one group."""

    group: PurgeGroup

    @property
    def name(self) -> str:
        return self.group.operation

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.group.options)

    @property
    def stage_ids(self) -> tuple[str, ...]:
        return self.group.items

    def plan(self, plan_storages: PlanStorages) -> Plan:
        if not self.group.repository.is_on_host:
            plan_storages.ping(self.group.repository)
        return Plan(bounded(self.group.items))


class PurgeRuns(Projects):
    """Purge projects.

    The order is: stages, import metadata, managed images, image metadata, custom tags, rejected stages, final
    stages. A project is the name of one in the settings, or `Project` with its storages; a repository or
    `EngineProject` alone is a project of that name, with that primary storage. An engine is the one of this
    host: the content of another host's engine is not known here.
    """

    def plan_purge(
        self,
        project: Purgeable,
        *,
        policy: InUsePolicy | None = None,
        sized: bool = True,
        missing_ok: bool = False,
    ) -> PurgePlan:
        """Plan a purge, by groups; changes nothing, needs no Redis.

        Args:
            project: See the class.
            policy: The policy for stages in use in an engine; if None, they fail with `ImageInUseError`.
            sized: Compute the bytes that only each group uses; one request per manifest.
            missing_ok: Treat a missing repository as empty.

        Raises:
            RepositoryNotFoundError: The repository does not exist, or none of the project's storages.
            UsageError: The project does not exist, or a policy is given without an engine.
            EngineNotFoundError: The primary storage is a Docker Engine, and this host has none.
        """
        storages = self._storages(project)
        plan = self._services.registries.plan_purge(storages, policy=policy, sized=sized)
        if not plan and not plan.unknown and not plan.kept:
            beside = () if isinstance(project, StorageAddress) else self._beside(project)
            self._plan_storages(missing_ok=missing_ok, beside=beside).expect(storages.primary)
        return plan

    def purge_group(
        self,
        group: PurgeGroup,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Delete one group of a plan; arguments, result and errors as of `for_each_delete_stage`."""
        operation = self._placed(_GroupOperation(group), group.repository, None)
        return self._for_each(operation, on_outcome, parallel=parallel, idempotency_key=None, detach=detach)

    def purge(
        self,
        project: Purgeable,
        on_outcome: OnOutcome | None = None,
        *,
        on_group: OnGroup | None = None,
        policy: InUsePolicy | None = None,
        parallel: int | None = None,
        missing_ok: bool = False,
    ) -> list[PurgedGroup]:
        """Delete everything in a project; succeed for what is already gone, keep unknown tags.

        Failures in a group do not stop the purge; cancellation does.

        Args:
            project: See the class.
            on_outcome: Called once for each outcome of each group; an exception from it ends the purge.
            on_group: Called after each group.
            policy: As in `plan_purge`.
            parallel: Items at once; the project's own limit, or the settings', if None.
            missing_ok: As in `plan_purge`.

        Returns:
            The processed groups, in order.

        Raises:
            UsageError: As in `plan_purge`; nothing was started.
            UnreachableError: Redis or a registry does not answer, or no worker works.
            Exception: An exception of a callback.
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

    def _storages(self, project: Purgeable) -> Project:
        if isinstance(project, StorageAddress):
            return Project.alone(project)
        return self.resolve_project(project)
