"""Purges: everything of a project deleted, group after group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.client.projects import Project, Projects
from stagefleet.client.work import Catalogue, Plan, bounded
from stagefleet.names import Repository
from stagefleet.roles import Roles
from stagefleet.runs.coordinator import OnOutcome
from stagefleet.runs.model import Run, RunState

if TYPE_CHECKING:
    from stagefleet.manager.purge import PurgeGroup, PurgePlan  # brings the client of registries

__all__ = ["PurgeRuns", "PurgedGroup"]

OnGroup = Callable[["PurgedGroup"], None]


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
        catalogue.ping(self.group.repository)
        return Plan(bounded(self.group.items))


class PurgeRuns(Projects):
    """Projects purged.

    In this order: stages, import metadata, managed images, image metadata, custom tags, rejected stages,
    final stages. A project is the name of one in the settings, or `Roles` that say which storages it has; a
    repository alone is the project of its name, with that as its primary storage.
    """

    def plan_purge(self, project: Project | Repository, *, sized: bool = True) -> PurgePlan:
        """What a purge would delete, grouped; changes nothing, needs no Redis.

        Args:
            project: See the class.
            sized: Say also how many bytes each group holds alone; a request for each manifest.

        Raises:
            UsageError: There is no such project, or its primary storage is a Docker Engine.
        """
        return self._services.registries.plan_purge(self._storages(project), sized=sized)

    def purge_group(
        self,
        group: PurgeGroup,
        on_outcome: OnOutcome | None = None,
        *,
        parallel: int | None = None,
        detach: bool = False,
    ) -> Run:
        """Delete one group of a plan; arguments, return and errors as of `for_each_delete_stage`."""
        return self._for_each(
            _GroupWork(group), on_outcome, parallel=parallel, idempotency_key=None, detach=detach
        )

    def purge(
        self,
        project: Project | Repository,
        on_outcome: OnOutcome | None = None,
        *,
        on_group: OnGroup | None = None,
        parallel: int | None = None,
    ) -> list[PurgedGroup]:
        """Delete everything of a project; what is gone already is a success, tags of nobody stay.

        A group with failures does not keep the next from going; a cancelled one does.

        Args:
            project: See the class.
            on_outcome: Called once for each outcome of each group; what it raises ends the purge.
            on_group: Called after each group.
            parallel: Items at once; the project's own limit, or the settings', if None.

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
        for group in self.plan_purge(project, sized=False).groups:
            run = self.purge_group(group, on_outcome, parallel=parallel) if group.items else None
            done.append(PurgedGroup(group, run))
            if on_group is not None:
                on_group(done[-1])
            if run is not None and run.state is RunState.CANCELLED:
                break
        return done

    def _storages(self, project: Project | Repository) -> Roles:
        return Roles(project.name, project) if isinstance(project, Repository) else self.roles(project)
