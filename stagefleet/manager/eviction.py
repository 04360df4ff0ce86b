"""Delete a stage from caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from stagefleet.manager.mishaps import warned
from stagefleet.manager.outages import CacheOutages
from stagefleet.manager.produced import Produced
from stagefleet.names import Repository, StageId
from stagefleet.registry.leash import Leash

__all__ = ["Deletes", "evict_stage"]


class Deletes(Protocol):
    """Deletion of a stage from one repository."""

    @property
    def outages(self) -> CacheOutages:
        """The caches that are skipped after an outage."""

    def delete_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash,
    ) -> Produced:
        """Delete one stage, and no tag outside of the run."""


def evict_stage(
    stages: Deletes,
    caches: Sequence[Repository],
    stage_id: StageId,
    *,
    run: str,
    asked: Callable[[], Iterable[str]],
    leash: Leash,
) -> None:
    """Delete a stage from each cache; a failure is a warning: a cache may have anything at any time.

    Each cache that keeps the stage is reported, also one that is skipped.

    Args:
        stages: Deletes from one repository.
        caches: The caches.
        stage_id: The stage.
        run: The run's id.
        asked: Returns the stage ids that the run deletes and has not deleted yet.
        leash: Lease to check in waits and before writes.
    """
    for cache in caches:
        with warned(f"cache {cache} keeps stage {stage_id}"), stages.outages.watching(cache):
            stages.delete_stage(cache, stage_id, run=run, asked=asked, leash=leash)
