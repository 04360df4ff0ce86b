"""Work between the storages of a project: checks of arguments, and plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.errors import UsageError
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.base import (
    DeleteOperation,
    Plan,
    PlanStorages,
    StageIds,
    bounded,
    find_lacking,
    listed_ids,
    named_ids,
    parse_stage_ids,
    refuse_missing,
)
from stagefleet.project import Project

__all__ = [
    "CacheOperation",
    "DescribeOperation",
    "ProjectDeleteOperation",
    "PublishDryRun",
    "PublishOperation",
    "TakeOperation",
    "final_of",
]


def final_of(project: Project) -> Repository:
    """Return the final storage of a project.

    Raises:
        UsageError: The project has none.
    """
    if project.final is None:
        raise UsageError(f"project {project.name} has no final storage: set projects.{project.name}.final")
    return project.final


@dataclass(frozen=True, slots=True)
class PublishOperation:
    """Copy stages from the primary storage into the final one.

    Attributes:
        project: The project's storages.
        stage_ids: The stages; None for all.
        details: Options of the task besides the storages.
    """

    project: Project
    stage_ids: tuple[str, ...] | None
    details: Mapping[str, Any]

    name = "publish_stage"

    @classmethod
    def of(
        cls,
        project: Project,
        stage_ids: StageIds | None,
        *,
        should_be_built: bool,
        fill_caches: bool,
        image: str | None,
    ) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no final storage.
        """
        final_of(project)
        details = {"should_be_built": should_be_built, "fill_caches": fill_caches, "image": image}
        return cls(
            project, parse_stage_ids(stage_ids), {key: value for key, value in details.items() if value}
        )

    @property
    def options(self) -> dict[str, Any]:
        return self.project.as_options() | dict(self.details)

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan all named stages, or of all stages those that the final tag list lacks.

        Raises:
            StagesNotFoundError: The primary lacks named stages.
            TooManyItemsError: The run has more items than allowed.
        """
        if self.stage_ids is not None and self.details.get("should_be_built"):
            plan_storages.ping(final_of(self.project))
            return Plan(self.stage_ids)  # only the final storage matters
        wanted = _wanted(plan_storages, self.project.primary, self.stage_ids)
        if self.stage_ids is not None or self.details:
            return Plan(wanted)
        return self._compare(plan_storages, wanted)

    def _compare(self, plan_storages: PlanStorages, wanted: Sequence[str]) -> Plan:
        there = listed_ids(plan_storages, final_of(self.project)) if wanted else set()
        return Plan(
            items=[stage_id for stage_id in wanted if stage_id not in there],
            skipped=[stage_id for stage_id in wanted if stage_id in there],
        )


class PublishDryRun(PublishOperation):
    """The plan of a dry run: it skips named stages too if the final tag list has them."""

    __slots__ = ()

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the stages that the final tag list lacks.

        Raises:
            StagefleetError: As in `PublishOperation.plan`.
        """
        if self.details.get("fill_caches"):
            return super().plan(plan_storages)
        return self._compare(plan_storages, _wanted(plan_storages, self.project.primary, self.stage_ids))


@dataclass(frozen=True, slots=True)
class _PrimaryOperation:
    """Work on stages of the primary storage that needs no options besides the project's storages.

    Attributes:
        project: The project's storages.
        stage_ids: The stages; None for all.
    """

    project: Project
    stage_ids: tuple[str, ...] | None

    @classmethod
    def of(cls, project: Project, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed.
        """
        return cls(project, parse_stage_ids(stage_ids))

    @property
    def options(self) -> dict[str, Any]:
        return self.project.as_options()

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the named stages, or all of the primary; caches are not read, since one may be down.

        Raises:
            StagesNotFoundError: The primary lacks named stages.
            TooManyItemsError: The run has more items than allowed.
        """
        return Plan(_wanted(plan_storages, self.project.primary, self.stage_ids))


class DescribeOperation(_PrimaryOperation):
    """Describe stages of the primary storage, through the caches."""

    __slots__ = ()

    name = "describe_stage"


class CacheOperation(_PrimaryOperation):
    """Copy stages from the primary storage into the caches."""

    __slots__ = ()

    name = "cache_stage"

    @classmethod
    def of(cls, project: Project, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no caches.
        """
        if not project.caches:
            raise UsageError(f"project {project.name} has no caches: set projects.{project.name}.caches")
        return super().of(project, stage_ids)


class TakeOperation(_PrimaryOperation):
    """Copy stages that the primary storage lacks from the secondary ones."""

    __slots__ = ()

    name = "take_stage"

    @classmethod
    def of(cls, project: Project, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no secondary storages.
        """
        if not project.secondaries:
            raise UsageError(
                f"project {project.name} has no secondary storages: set projects.{project.name}.secondaries"
            )
        return super().of(project, stage_ids)

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Choose a stage for each digest that the primary lacks: the oldest in the first secondary with one.

        A full stage id selects that stage; a digest alone selects any stage with it.

        Raises:
            StagesNotFoundError: No storage has a named stage.
            TooManyItemsError: The run has more items than allowed.
        """
        primary = self.project.primary  # it may be new
        ours = set(plan_storages.stage_ids(primary))
        if not ours and not primary.is_on_host:
            plan_storages.ping(primary)
        theirs = [_oldest_first(named_ids(plan_storages, storage)) for storage in self.project.secondaries]
        if self.stage_ids is None:
            known = {stage_id.digest for stage_id in ours}
            digests = (digest for stages in theirs for digest in stages if digest not in known)
            chosen = (_chosen(digest, theirs) for digest in dict.fromkeys(digests))
            return Plan(bounded(str(stage_id) for stage_id in chosen))
        return self._plan_named([_oldest_first(ours), *theirs], ours)

    def _plan_named(self, storages: Sequence[Mapping[str, Sequence[StageId]]], ours: set[StageId]) -> Plan:
        items: list[str] = []
        skipped: list[str] = []
        missing = set()
        for name in self.stage_ids or ():
            wanted = StageId.parse(name)
            exact = any(wanted in stages.get(wanted.digest, ()) for stages in storages)
            chosen = wanted if exact else None
            if chosen is None and wanted.is_multiplatform:
                chosen = _chosen(wanted.digest, storages)
            if chosen is None:
                missing.add(name)
            else:
                (skipped if chosen in ours else items).append(str(chosen))
        refuse_missing(sorted(missing), [self.project.primary, *self.project.secondaries])
        return Plan(bounded(dict.fromkeys(items)), tuple(dict.fromkeys(skipped)))


class ProjectDeleteOperation(_PrimaryOperation):
    """Delete stages from a project's caches and its primary storage."""

    __slots__ = ()

    name = "delete_stage"

    @property
    def options(self) -> dict[str, Any]:
        caches = [str(cache) for cache in self.project.caches]
        return {"repository": str(self.project.primary), "caches": caches}

    def plan(self, plan_storages: PlanStorages) -> Plan:
        """Plan the same as for the primary storage; caches are not read.

        Raises:
            TooManyItemsError: The run has more items than allowed.
        """
        primary = self.project.primary
        if not primary.is_on_host:
            return DeleteOperation(primary, self.stage_ids).plan(plan_storages)
        if self.stage_ids is not None:
            return Plan(bounded(self.stage_ids))
        return Plan(bounded(map(str, named_ids(plan_storages, primary))))


def _wanted(
    plan_storages: PlanStorages, primary: StorageAddress, stage_ids: tuple[str, ...] | None
) -> Sequence[str]:
    """Return the named stages, if the primary storage has all of them; or all of its stages."""
    if stage_ids is None:
        return bounded(map(str, named_ids(plan_storages, primary)))
    refuse_missing(find_lacking(plan_storages, primary, stage_ids), [primary])
    return stage_ids


def _oldest_first(stage_ids: Iterable[StageId]) -> dict[str, list[StageId]]:
    """Group stages by digest, the oldest of each first."""
    found: dict[str, list[StageId]] = {}
    for stage_id in sorted(stage_ids, key=lambda stage_id: stage_id.created_ms):
        found.setdefault(stage_id.digest, []).append(stage_id)
    return found


def _chosen(digest: str, storages: Iterable[Mapping[str, Sequence[StageId]]]) -> StageId | None:
    """Return the oldest stage of a digest in the first storage that has one."""
    return next((stages[digest][0] for stages in storages if digest in stages), None)
