"""What a caller asks to be done between the storages of a project: arguments checked once, and the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stagefleet.client.work import Catalogue, CopyWork, DeleteWork, Plan, StageIds
from stagefleet.errors import StagesMissingError, TooManyItemsError, UsageError
from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.roles import Roles
from stagefleet.runs.model import MAX_ITEMS

__all__ = ["CacheWork", "ProjectDeleteWork", "PublishWork", "TakeWork", "final_of"]

_NAMED_IN_MESSAGES = 3


def final_of(roles: Roles) -> Repository:
    """The final storage of a project.

    Raises:
        UsageError: It has none.
    """
    if roles.final is None:
        raise UsageError(f"project {roles.project} has no final storage: set projects.{roles.project}.final")
    return roles.final


def primary_of(roles: Roles) -> Repository:
    """The primary storage of a project, which any worker can reach.

    Raises:
        UsageError: It is a Docker Engine, which only its own host can.
    """
    if isinstance(roles.primary, DockerDaemon):
        raise UsageError(
            f"the primary storage of {roles.project} is {roles.primary}, which only its own host reaches: "
            "this needs a registry's repository"
        )
    return roles.primary


@dataclass(frozen=True, slots=True)
class PublishWork:
    """Copy stages from the primary storage into the final one.

    Attributes:
        roles: The project's storages.
        stage_ids: Which, None for all.
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
    ) -> PublishWork:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no final storage.
        """
        copy = CopyWork.of(primary_of(roles), final_of(roles), stage_ids, verify=False)
        details = {"should_be_built": should_be_built, "fill_caches": fill_caches, "image": image}
        return cls(roles, copy.stage_ids, {key: value for key, value in details.items() if value})

    @property
    def options(self) -> dict[str, Any]:
        """As in `Work`."""
        return self.roles.as_options() | dict(self.details)

    def plan(self, catalogue: Catalogue) -> Plan:
        """What is named is looked at stage by stage; of all, what is on the final tag list is skipped here.

        Raises:
            StagesMissingError: Stages were named that the primary does not have.
            TooManyItemsError: There are more than a run may have.
        """
        final = final_of(self.roles)
        copy = CopyWork.of(primary_of(self.roles), final, self.stage_ids, verify=False)
        if self.stage_ids is not None and self.details.get("should_be_built"):
            catalogue.ping(final)
            return Plan(self.stage_ids)  # the final storage alone decides
        plan = copy.plan(catalogue)
        if self.stage_ids is not None:
            return Plan(self.stage_ids)
        return Plan([*plan.skipped, *plan.items]) if self.details else plan

    def forecast(self, catalogue: Catalogue) -> Plan:
        """What a dry run tells: what the final storage has on its tag list is skipped.

        Raises:
            StagefleetError: As for `plan`.
        """
        if self.details.get("fill_caches"):
            return self.plan(catalogue)
        copy = CopyWork.of(primary_of(self.roles), final_of(self.roles), self.stage_ids, verify=False)
        return copy.plan(catalogue)


@dataclass(frozen=True, slots=True)
class CacheWork:
    """Copy stages from the primary storage into the caches."""

    roles: Roles
    stage_ids: tuple[str, ...] | None

    operation = "cache_stage"

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> CacheWork:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no caches.
        """
        if not roles.caches:
            raise UsageError(f"project {roles.project} has no caches: set projects.{roles.project}.caches")
        return cls(roles, DeleteWork.of(primary_of(roles), stage_ids).stage_ids)

    @property
    def options(self) -> dict[str, Any]:
        """As in `Work`."""
        return self.roles.as_options()

    def plan(self, catalogue: Catalogue) -> Plan:
        """All that the primary has: a cache that is down must not keep the run from starting.

        Raises:
            StagesMissingError: Stages were named that the primary does not have.
            TooManyItemsError: There are more than a run may have.
        """
        primary = primary_of(self.roles)
        there = _bounded(map(str, catalogue.stage_ids(primary)))
        if self.stage_ids is None:
            return Plan(there)
        _refuse_missing(set(self.stage_ids) - set(there), [primary])
        return Plan(self.stage_ids)


@dataclass(frozen=True, slots=True)
class TakeWork:
    """Copy stages that the primary storage lacks out of the secondary ones."""

    roles: Roles
    stage_ids: tuple[str, ...] | None

    operation = "take_stage"

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> TakeWork:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed, or the project has no secondary storages.
        """
        if not roles.secondaries:
            raise UsageError(
                f"project {roles.project} has no secondary storages: set projects.{roles.project}.secondaries"
            )
        return cls(roles, DeleteWork.of(primary_of(roles), stage_ids).stage_ids)

    @property
    def options(self) -> dict[str, Any]:
        """As in `Work`."""
        return self.roles.as_options()

    def plan(self, catalogue: Catalogue) -> Plan:
        """Choose a stage for each digest that the primary lacks: the oldest of the first that has one.

        A stage that is named in full is itself looked for; a digest alone stands for any stage of it.

        Raises:
            StagesMissingError: Something was named that no storage has.
            TooManyItemsError: There are more than a run may have.
        """
        primary = primary_of(self.roles)
        ours = set(catalogue.stage_ids(primary))
        theirs = [_oldest_first(catalogue.stage_ids(storage)) for storage in self.roles.secondaries]
        if self.stage_ids is None:
            known = {stage_id.digest for stage_id in ours}
            digests = (digest for stages in theirs for digest in stages if digest not in known)
            chosen = (_chosen(digest, theirs) for digest in dict.fromkeys(digests))
            return Plan(_bounded(str(stage_id) for stage_id in chosen))
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
        _refuse_missing(missing, [primary_of(self.roles), *self.roles.secondaries])
        return Plan(_bounded(dict.fromkeys(items)), tuple(dict.fromkeys(skipped)))


@dataclass(frozen=True, slots=True)
class ProjectDeleteWork:
    """Delete stages out of a project's caches and its primary storage."""

    roles: Roles
    work: DeleteWork

    operation = "delete_stage"

    @classmethod
    def of(cls, roles: Roles, stage_ids: StageIds | None) -> ProjectDeleteWork:
        """Check the arguments.

        Raises:
            UsageError: A stage id is malformed.
        """
        return cls(roles, DeleteWork.of(primary_of(roles), stage_ids))

    @property
    def stage_ids(self) -> tuple[str, ...] | None:
        """As in `Work`."""
        return self.work.stage_ids

    @property
    def options(self) -> dict[str, Any]:
        """As in `Work`."""
        return self.work.options | {"caches": [str(cache) for cache in self.roles.caches]}

    def plan(self, catalogue: Catalogue) -> Plan:
        """As for a deletion from the primary storage; caches may have anything, and are not asked."""
        return self.work.plan(catalogue)


def _oldest_first(stage_ids: Iterable[StageId]) -> dict[str, list[StageId]]:
    """Stages by digest, the oldest of each first."""
    found: dict[str, list[StageId]] = {}
    for stage_id in sorted(stage_ids, key=lambda stage_id: stage_id.created_ms):
        found.setdefault(stage_id.digest, []).append(stage_id)
    return found


def _chosen(digest: str, storages: Iterable[Mapping[str, Sequence[StageId]]]) -> StageId | None:
    """The oldest stage of a digest in the first storage that has one."""
    return next((stages[digest][0] for stages in storages if digest in stages), None)


def _bounded(stage_ids: Iterable[str]) -> list[str]:
    found = list(islice(stage_ids, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise TooManyItemsError(f"a run has at most {MAX_ITEMS:,} items: name fewer stages, in several runs")
    return found


def _refuse_missing(missing: set[str], storages: Sequence[Repository]) -> None:
    if missing:
        shown = ", ".join(sorted(missing)[:_NAMED_IN_MESSAGES])
        more = len(missing) - _NAMED_IN_MESSAGES
        rest = f" and {more:,} more" if more > 0 else ""
        raise StagesMissingError(f"{', '.join(map(str, storages))} does not have {shown}{rest}")
