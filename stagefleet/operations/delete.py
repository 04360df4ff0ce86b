"""Deletions of stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from stagefleet.errors import PruneLimitError, UsageError
from stagefleet.names import StorageAddress
from stagefleet.operations import base
from stagefleet.setting_types import RepositoryText
from stagefleet.stage_lists import StageIdList, StageNames

_ALL_PERCENT = 100


@dataclass(frozen=True, slots=True)
class InUsePolicy:
    """A policy for stages in use: skip them, or remove their containers, with `force` also running ones."""

    skip_used: bool = False
    remove_containers: bool = False
    force: bool = False

    def as_options(self) -> dict[str, bool]:
        """Return the policy for `RunSpec.options`; empty for the default."""
        return {name: value for name, value in asdict(self).items() if value}


def refuse_referrers(address: StorageAddress) -> None:
    """Raise `UsageError` if the stages of a storage cannot have referrers."""
    if address.is_on_host:
        raise UsageError(
            f"{address} is no repository: only there stages have referrers: leave out --referrers (referrers)"
        )


class DeleteOperation(base.StorageOperation):
    """Delete stages; succeed for those that are already gone. The other options are as of `InUsePolicy`.

    Attributes:
        caches: Repositories that they are deleted from before, where failures are warnings; None for none.
        also: Tags of the repository that a later run of the same purge deletes, and so keep no image.
        referrers: Delete what refers to them, too, where no other tag keeps their image.
    """

    name: ClassVar[str] = "delete_stage"
    past: ClassVar[str] = "deleted"

    caches: tuple[RepositoryText, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    also: tuple[str, ...] = base.left_out_if_unset(default=())
    referrers: bool = base.left_out_if_unset(default=False)
    skip_used: bool = base.left_out_if_unset(default=False)
    remove_containers: bool = base.left_out_if_unset(default=False)
    force: bool = base.left_out_if_unset(default=False)

    @classmethod
    def of(cls, address: StorageAddress, policy: InUsePolicy | None = None, **options: Any) -> Self:
        """Build the operation with a policy for stages in use; None for the default."""
        options |= {} if policy is None else policy.as_options()
        return cls(repository=address, **options)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.policy != InUsePolicy() and not self.repository.is_engine:
            raise UsageError(f"{self.repository} is no Docker Engine: only there images are in use")
        if self.referrers:
            refuse_referrers(self.repository)
        return self

    @property
    def policy(self) -> InUsePolicy:
        """The policy for stages in use."""
        return InUsePolicy(self.skip_used, self.remove_containers, self.force)

    @property
    def deletes_from(self) -> tuple[StorageAddress, ...]:
        return (self.repository, *(self.caches or ()))

    def _plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Plan all named stages without the tag list: the task succeeds for a stage that is gone.

        A stage that a crash left half deleted is on no list of stages, and the task must finish its deletion.
        """
        if items is None:
            return base.Plan(base.select_present(storages, self.repository, None))
        storages.expect(self.repository)
        return base.Plan(base.bounded(items))


class PruneOperation(DeleteOperation):
    """Delete stages that a source no longer has, after a copy from there; one that it has by then stays.

    Attributes:
        max_percent: The largest part of the repository's stages that may go, from 0 to 100.
    """

    name: ClassVar[str] = "prune_stage"
    reads: ClassVar[str] = "source"
    writes: ClassVar[str] = "repository"

    source: RepositoryText
    max_percent: float = 10.0

    @field_validator("max_percent")
    @classmethod
    def _check_percent(cls, value: float) -> float:
        if not 0 <= value <= _ALL_PERCENT:
            raise UsageError(f"--max-percent (max_percent) is {value:g}: give a number from 0 to 100")
        return value

    def _plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Plan the stages that the source's tag list lacks.

        Raises:
            PruneLimitError: They are too large a part of the repository.
        """
        # In this order: what is copied meanwhile is on the second list.
        there = StageNames(StageIdList.of(storages.stage_ids(self.repository)))
        kept = base.named_list(storages, self.source)
        if not kept:
            raise UsageError(f"{self.source} lists no stages: all of {self.repository} would be deleted")
        gone, _ = there.split(kept)
        if len(gone) * _ALL_PERCENT > self.max_percent * len(there):
            raise PruneLimitError(
                f"{len(gone):,} of the {len(there):,} stages of {self.repository} are not in {self.source}, "
                f"more than {self.max_percent:g} %: none is deleted; --max-percent (max_percent) allows more"
            )
        if items is None:
            return base.Plan(base.bounded(gone))
        known = set(gone)
        return base.Plan([item for item in items if item in known])
