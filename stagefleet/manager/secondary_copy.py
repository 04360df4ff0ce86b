"""Copies of missing stages from the secondary storages into the primary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from stagefleet.errors import (
    ContentError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
    StageNotFoundError,
)
from stagefleet.images import StageDescription
from stagefleet.manager.item_result import ItemResult
from stagefleet.manager.storage_router import StorageRouter
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.project import Project
from stagefleet.registry.lease import Lease

__all__ = ["SecondaryCopy", "Select", "oldest"]

_LOGGER = logging.getLogger(__name__)

Select = Callable[[Iterable[StageId]], StageId | None]
"""Chooses one of the stages of a digest."""


def oldest(stage_ids: Iterable[StageId]) -> StageId | None:
    """Return the stage that was built first, so that all builders choose the same one; None of none."""
    return min(stage_ids, key=lambda stage_id: (stage_id.created_ms, stage_id.digest), default=None)


class SecondaryCopy:
    """Copies from the secondaries, which are only read, into the primary.

    Args:
        router: Access to stages.
        project: The project's storages.
        run_id: The run's id.
        lease: Lease to check in waits and before writes.
    """

    def __init__(self, router: StorageRouter, project: Project, *, run_id: str, lease: Lease) -> None:
        self._router = router
        self._project = project
        self._run = run_id
        self._lease = lease

    def take(self, stage_id: StageId) -> ItemResult:
        """Copy a stage from the first secondary that can deliver it; skip it if the primary has it.

        A secondary that fails, or has it damaged, does not prevent a copy from the others.

        Raises:
            StageNotFoundError: No secondary has it.
            StagefleetError: A secondary has it or may have it, but none can deliver it; temporary errors come
                first.
        """
        primary = self._project.primary
        there = self._described(stage_id)
        if there is not None:
            return ItemResult(there.as_json(), skipped=True)
        failures: list[StagefleetError] = []
        for secondary in self._project.secondaries:
            try:
                return self._router.copy(secondary, primary, stage_id, run_id=self._run, lease=self._lease)
            except StageNotFoundError:
                continue
            except StagefleetError as error:
                if not _is_of(error, secondary):
                    raise
                failures.append(error)
        if failures:
            raise next((error for error in failures if error.retryable), failures[0])
        tried = ", ".join(map(str, self._project.secondaries)) or "there is none"
        raise StageNotFoundError(
            f"no secondary storage of {self._project.name} has stage {stage_id} ({tried})"
        )

    def take_suitable(self, digest: str, select: Select = oldest) -> ItemResult | None:
        """Copy a stage of a digest, unless the primary has one.

        Args:
            digest: The content digest of the stage.
            select: Chooses one of several; of one storage at a time.

        Returns:
            The copied stage, or the one in the primary; None if no storage has a stage of that digest.
        """
        for storage in (self._project.primary, *self._project.secondaries):
            ids = self._router.list_stages(storage)
            chosen = select(stage_id for stage_id in ids if stage_id.digest == digest)
            if chosen is None:
                continue
            try:
                return self.take(chosen)
            except (StageNotFoundError, ContentError) as error:
                _LOGGER.warning("%s does not give stage %s, the next is asked: %s", storage, chosen, error)
        return None

    def _described(self, stage_id: StageId) -> StageDescription | None:
        primary = self._project.primary
        try:
            if isinstance(primary, Repository) and not self._router.has(primary, stage_id):
                return None
            return self._router.describe(primary, stage_id)
        except (StageNotFoundError, ContentError, RegistryUnavailableError):
            return None  # a copy repairs a damaged stage


def _is_of(error: StagefleetError, storage: StorageAddress) -> bool:
    """Return True if an error concerns the source of a copy, so that another source may do."""
    if isinstance(error, ContentError):
        return True
    if isinstance(error, RegistryError):
        return error.repository == str(storage)
    host = getattr(error, "host", "")
    return isinstance(error, RegistryUnreachableError) and host == getattr(storage, "host", None)
