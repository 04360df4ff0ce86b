"""Delete a stage from caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from stagefleet.manager.circuit_breakers import CircuitBreakers
from stagefleet.manager.item_result import NOT_THERE, ItemResult
from stagefleet.manager.tolerated_errors import errors_as_warnings
from stagefleet.names import Repository, StageId
from stagefleet.registry.lease import Lease

__all__ = ["StageDeleter", "delete_from_caches"]


class StageDeleter(Protocol):
    """Deletion of a stage from one repository."""

    @property
    def circuit_breakers(self) -> CircuitBreakers:
        """The caches that are skipped after an outage."""

    def delete_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease,
    ) -> ItemResult:
        """Delete one stage, and no tag outside of the run."""


def delete_from_caches(
    stages: StageDeleter,
    caches: Sequence[Repository],
    stage_id: StageId,
    *,
    run_id: str,
    to_delete: Callable[[], Iterable[str]],
    lease: Lease,
) -> bool:
    """Delete a stage from each cache; a failure is a warning: a cache may have anything at any time.

    Each cache that keeps the stage is reported, also one that is skipped.

    Args:
        stages: Deletes from one repository.
        caches: The caches.
        stage_id: The stage.
        run_id: The run's id.
        to_delete: Returns the stage ids that the run deletes and has not deleted yet.
        lease: Lease to check in waits and before writes.

    Returns:
        True if a cache had it.
    """
    had_it = False
    for cache in caches:
        with (
            errors_as_warnings(f"cache {cache} keeps stage {stage_id}"),
            stages.circuit_breakers.guarding(cache),
        ):
            item_result = stages.delete_stage(
                cache, stage_id, run_id=run_id, to_delete=to_delete, lease=lease
            )
            had_it |= item_result != NOT_THERE
    return had_it
