"""Work between the storages of a project: checks of arguments, and plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.client.work import (
    Catalogue,
    DeleteWork,
    Plan,
    StageIds,
    bounded,
    find_lacking,
    listed_ids,
    named_ids,
    parse_stage_ids,
    refuse_missing,
)
from stagefleet.errors import UsageError
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.roles import Roles

__all__ = [
    "CacheWork",
    "DescribeWork",
    "ProjectDeleteWork",
    "PublishForecast",
    "PublishWork",
    "TakeWork",
    "final_of",
]


def final_of(roles: Roles) -> Repository:
    """Return the final storage of a project.

    Raises:
        UsageError: The project has none.
    """
    if roles.final is None:
        raise UsageError(f"project {roles.project} has no final storage: set projects.{roles.project}.final")
    return roles.final


Place = Repository | DockerDaemon


@dataclass(frozen=True, slots=True)
class PublishWork:
    """Copy stages from the primary storage into the final one.

    Attributes:
        roles: The project's storages.
        stage_ids: The stages; None for all.
        details: Options of the task besides the storages.
    """

    roles: Roles
    stage_ids: tuple[str, ...] | None
    details: Mapping[str, Any]

    operation = "publish_stage"

    @classmethod
    def of(
        cls,
        roles: Roles,
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
        final_of(roles)
        details = {"should_be_built": should_be_built, "fill_caches": fill_caches, "image": image}
        return cls(roles, parse_stage_ids(stage_ids), {key: value for key, value in details.items() if value})

    @property
    def options(self) -> dict[str, Any]:
        return self.roles.as_options() | dict(self.details)

    def plan(self, catalogue: Catalogue) -> Plan:
        """Plan all named stages, or of all stages those that the final tag list lacks.

        Raises:
            StagesMissingError: The primary lacks named stages.
            TooManyItemsError: The run has more items than allowed.
        """
        if self.stage_ids is not None and self.details.get("should_be_built"):
            catalogue.ping(final_of(self.roles))
            return Plan(self.stage_ids)  # only the final storage matters
        wanted = _wanted(catalogue, self.roles.primary, self.stage_ids)
        if self.stage_ids is not None or self.details:
            return Plan(wanted)
        return self._compare(catalogue, wanted)

    def _compare(self, catalogue: Catalogue, wanted: Sequence[str]) -> Plan:
        there = listed_ids(catalogue, final_of(self.roles)) if wanted else set()
        return Plan(
            items=[stage_id for stage_id in wanted if stage_id not in there],
            skipped=[stage_id for stage_id in wanted if stage_id in there],
        )


class PublishForecast(PublishWork):
    """The plan of a dry run: it skips named stages too if the final tag list has them."""

    __slots__ = ()

    def plan(self, catalogue: Catalogue) -> Plan:
        """Plan the stages that the final tag list lacks.

        Raises:
            StagefleetError: As in `PublishWork.plan`.
        """
        if self.details.get("fill_caches"):
            return super().plan(catalogue)
        return self._compare(catalogue, _wanted(catalogue, self.roles.primary, self.stage_ids))


@dataclass(frozen=True, slots=True)
class _PrimaryWork:
    """Work on stages of the primary storage that needs no options besides the project's storages.

    Attributes:
        roles: The project's storages.
        stage_ids: The stages; None for all.
    """

    roles: Roles
    stage_ids: tuple[str, ...] | None

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed.
        """
        return cls(roles, parse_stage_ids(stage_ids))

    @property
    def options(self) -> dict[str, Any]:
        return self.roles.as_options()

    def plan(self, catalogue: Catalogue) -> Plan:
        """Plan the named stages, or all of the primary; caches are not read, since one may be down.

        Raises:
            StagesMissingError: The primary lacks named stages.
            TooManyItemsError: The run has more items than allowed.
        """
        return Plan(_wanted(catalogue, self.roles.primary, self.stage_ids))


class DescribeWork(_PrimaryWork):
    """Describe stages of the primary storage, through the caches."""

    __slots__ = ()

    operation = "describe_stage"


class CacheWork(_PrimaryWork):
    """Copy stages from the primary storage into the caches."""

    __slots__ = ()

    operation = "cache_stage"

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no caches.
        """
        if not roles.caches:
            raise UsageError(f"project {roles.project} has no caches: set projects.{roles.project}.caches")
        return super().of(roles, stage_ids)


class TakeWork(_PrimaryWork):
    """Copy stages that the primary storage lacks from the secondary ones."""

    __slots__ = ()

    operation = "take_stage"

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> Self:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no secondary storages.
        """
        if not roles.secondaries:
            raise UsageError(
                f"project {roles.project} has no secondary storages: set projects.{roles.project}.secondaries"
            )
        return super().of(roles, stage_ids)

    def plan(self, catalogue: Catalogue) -> Plan:
        """Choose a stage for each digest that the primary lacks: the oldest in the first secondary with one.

        A full stage id selects that stage; a digest alone selects any stage with it.

        Raises:
            StagesMissingError: No storage has a named stage.
            TooManyItemsError: The run has more items than allowed.
        """
        primary = self.roles.primary  # it may be new
        ours = set(catalogue.stage_ids(primary))
        if not ours and isinstance(primary, Repository):
            catalogue.ping(primary)
        theirs = [_oldest_first(named_ids(catalogue, storage)) for storage in self.roles.secondaries]
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
        refuse_missing(sorted(missing), [self.roles.primary, *self.roles.secondaries])
        return Plan(bounded(dict.fromkeys(items)), tuple(dict.fromkeys(skipped)))


class ProjectDeleteWork(_PrimaryWork):
    """Delete stages from a project's caches and its primary storage."""

    __slots__ = ()

    operation = "delete_stage"

    @property
    def options(self) -> dict[str, Any]:
        caches = [str(cache) for cache in self.roles.caches]
        return {"repository": str(self.roles.primary), "caches": caches}

    def plan(self, catalogue: Catalogue) -> Plan:
        """Plan the same as for the primary storage; caches are not read.

        Raises:
            TooManyItemsError: The run has more items than allowed.
        """
        primary = self.roles.primary
        if isinstance(primary, Repository):
            return DeleteWork(primary, self.stage_ids).plan(catalogue)
        if self.stage_ids is not None:
            return Plan(bounded(self.stage_ids))
        return Plan(bounded(map(str, named_ids(catalogue, primary))))


def _wanted(catalogue: Catalogue, primary: Place, stage_ids: tuple[str, ...] | None) -> Sequence[str]:
    """Return the named stages, if the primary storage has all of them; or all of its stages."""
    if stage_ids is None:
        return bounded(map(str, named_ids(catalogue, primary)))
    refuse_missing(find_lacking(catalogue, primary, stage_ids), [primary])
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
