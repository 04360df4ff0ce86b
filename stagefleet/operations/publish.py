"""Copies between the storages of a project: into the final one, into the caches, out of secondary ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from stagefleet.errors import UsageError
from stagefleet.names import Repository, StageId
from stagefleet.operations import base


class PublishOperation(base.ProjectOperation):
    """Copy stages from the primary storage into the final one; skip those that it has.

    Its options are as of `FleetProject.for_each_publish_stage`.
    """

    name: ClassVar[str] = "publish_stage"
    past: ClassVar[str] = "published"
    writes: ClassVar[str] = "final"

    should_be_built: bool = base.left_out_if_unset(default=False)
    fill_caches: bool = base.left_out_if_unset(default=False)
    image: str | None = base.left_out_if_unset(default=None)
    referrers: bool = Field(default=True, exclude_if=lambda value: value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.final_repository
        return self

    @property
    def final_repository(self) -> Repository:
        """The final storage."""
        return self.storages.final_repository

    def _plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Plan all named stages, or of all stages those that the final tag list lacks."""
        if items is not None and self.should_be_built:
            storages.ping(self.final_repository)
            return base.Plan(items)  # only the final storage matters
        if items is not None or self.should_be_built or self.fill_caches or self.image:
            return base.Plan(base.select_present(storages, self.primary, items))
        return self._compare(items, storages)

    def plan_dry_run(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Plan a run that is not started: skip named stages, too, if the final tag list has them."""
        if self.fill_caches or self._lies_elsewhere(items, storages):
            return self.model_copy(update={"should_be_built": False}).plan(items, storages)
        return self._compare(items, storages).on_hosts(self.hosts)

    def _compare(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        listed = storages.listing(self.primary, self.final_repository)
        wanted = base.select_present(listed, self.primary, items)
        return base.compare(wanted, listed, self.final_repository)


class CacheOperation(base.ProjectOperation):
    """Copy stages from the primary storage into the caches."""

    name: ClassVar[str] = "cache_stage"
    past: ClassVar[str] = "cached"
    writes: ClassVar[str] = "caches"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.caches:
            raise UsageError(f"project {self.project} has no caches: set projects.{self.project}.caches")
        return self


class TakeOperation(base.ProjectOperation):
    """Copy stages that the primary storage lacks from the secondary ones."""

    name: ClassVar[str] = "take_stage"
    past: ClassVar[str] = "copied"
    reads: ClassVar[str] = "secondaries"
    writes: ClassVar[str] = "primary"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.secondaries:
            raise UsageError(
                f"project {self.project} has no secondary storages: set projects.{self.project}.secondaries"
            )
        return self

    def _plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Choose a stage for each digest that the primary lacks: the oldest in the first secondary with one.

        A full stage id selects that stage; a digest alone selects any stage with it.
        """
        ours = set(storages.stage_ids(self.primary))  # it may be new
        if not ours and not self.primary.is_on_host:
            storages.ping(self.primary)
        theirs = [_oldest_first(base.named_list(storages, address)) for address in self.secondaries]
        if items is not None:
            return self._plan_named(items, [_oldest_first(ours), *theirs], ours)
        known = {stage_id.digest for stage_id in ours}
        digests = (digest for stages in theirs for digest in stages if digest not in known)
        chosen = (_chosen(digest, theirs) for digest in dict.fromkeys(digests))
        return base.Plan(base.bounded(str(stage_id) for stage_id in chosen))

    def _plan_named(
        self, named: Sequence[str], stored: Sequence[Mapping[str, Sequence[StageId]]], ours: set[StageId]
    ) -> base.Plan:
        items: list[str] = []
        skipped: list[str] = []
        missing = set()
        for name in named:
            wanted = StageId.parse(name)
            chosen: StageId | None = wanted
            if not any(wanted in stages.get(wanted.digest, ()) for stages in stored):
                chosen = _chosen(wanted.digest, stored) if wanted.is_multiplatform else None
            if chosen is None:
                missing.add(name)
            else:
                (skipped if chosen in ours else items).append(str(chosen))
        base.refuse_missing(sorted(missing), [self.primary, *self.secondaries])
        return base.Plan(base.bounded(dict.fromkeys(items)), tuple(dict.fromkeys(skipped)))


def _oldest_first(stage_ids: Iterable[StageId]) -> dict[str, list[StageId]]:
    """Group stages by digest, the oldest of each first."""
    found: dict[str, list[StageId]] = {}
    for stage_id in sorted(stage_ids, key=lambda stage_id: stage_id.created_ms):
        found.setdefault(stage_id.digest, []).append(stage_id)
    return found


def _chosen(digest: str, stored: Iterable[Mapping[str, Sequence[StageId]]]) -> StageId | None:
    """Return the oldest stage of a digest in the first storage that has one."""
    return next((stages[digest][0] for stages in stored if digest in stages), None)
