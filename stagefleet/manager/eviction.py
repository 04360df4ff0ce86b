"""Delete a stage out of caches."""

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
    """What deletes a stage out of one repository."""

    @property
    def outages(self) -> CacheOutages:
        """The caches that are left alone."""

    def delete_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash,
    ) -> Produced:
        """Delete one stage, and no tag that nobody asked for."""


def evict_stage(
    stages: Deletes,
    caches: Sequence[Repository],
    stage_id: StageId,
    *,
    run: str,
    asked: Callable[[], Iterable[str]],
    leash: Leash,
) -> None:
    """Delete a stage out of each cache; what fails is a warning: a cache may have anything at any time.

    That a cache keeps a stage is said for each one, also while the cache is left alone.

    Args:
        stages: Deletes out of one repository.
        caches: The caches.
        stage_id: Which.
        run: The run that this belongs to.
        asked: Gives the stage ids that the run deletes and has not deleted yet.
        leash: Holds the work back.
    """
    for cache in caches:
        with warned(f"cache {cache} keeps stage {stage_id}"), stages.outages.watching(cache):
            stages.delete_stage(cache, stage_id, run=run, asked=asked, leash=leash)
