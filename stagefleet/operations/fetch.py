"""Fetches of stages to the engines of hosts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import model_validator

from stagefleet.errors import StagefleetError, UnreachableError, UsageError
from stagefleet.images import PlatformSelection
from stagefleet.names import StorageAddress
from stagefleet.operations import base
from stagefleet.project_addresses import Items, Project

_LOGGER = logging.getLogger(__name__)


class FetchOperation(base.ProjectOperation):
    """Fetch stages to hosts: from the first cache that has the stage, else from the primary storage.

    The platforms are those of multi-platform stages: the engine's own if empty, or all that it can keep.
    """

    name: ClassVar[str] = "fetch_stage"
    past: ClassVar[str] = "fetched"
    writes: ClassVar[str] = "hosts"

    platforms: tuple[str, ...] = base.left_out_if_unset(default=())
    all_platforms: bool = base.left_out_if_unset(default=False)

    @classmethod
    def of(cls, project: Project, selection: PlatformSelection | None = None, **options: Any) -> Self:
        """Build the operation for the storages of a project, and some platforms."""
        chosen = {} if selection is None else selection.as_options()
        return super().of(project, **chosen, **options)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.selection and self.primary.is_engine:
            raise UsageError(
                f"{self.primary} has the platforms that were built there, none can be brought: leave them out"
            )
        return self

    @property
    def selection(self) -> PlatformSelection:
        """The platforms."""
        return PlatformSelection.parse(self.platforms, everything=self.all_platforms)

    @property
    def is_on_host(self) -> bool:
        return True

    @property
    def beside(self) -> tuple[StorageAddress, ...]:
        return (self.primary, *self.caches)

    def parse_items(self, items: Items | None) -> tuple[str, ...]:
        named = super().parse_items(items)
        if not named:
            raise UsageError("no stage is named: a fetch is for stages that are to be used")
        return named

    def plan(self, items: Sequence[str] | None, storages: base.PlanStorages) -> base.Plan:
        """Plan every stage on every host; the tasks skip those that are already there.

        If an engine is the primary storage, only its own host knows its stages, and looks for them there.
        """
        named = base.bounded(items or ())
        if not self.primary.is_on_host:
            try:
                lacking = base.select_lacking(storages, self.primary, named)
            except UnreachableError as error:
                if not self.caches:
                    raise
                _LOGGER.warning("the caches have to serve, the primary storage is out of reach: %s", error)
            else:
                self._refuse_unknown(storages, lacking)
        return base.Plan(named).on_hosts(self.hosts)

    def _refuse_unknown(self, storages: base.PlanStorages, lacking: Sequence[str]) -> None:
        """Reject stages that no cache has either; a cache that does not answer counts as empty."""
        for cache in self.caches:
            if not lacking:
                return
            try:
                lacking = base.select_lacking(storages, cache, lacking)
            except StagefleetError as error:
                _LOGGER.warning("cache %s was not looked into: %s", cache, error)
        base.refuse_missing(lacking, [self.primary, *self.caches])
