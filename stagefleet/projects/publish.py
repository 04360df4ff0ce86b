"""Copies between the storages of a project: publish, and take from secondaries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from stagefleet.attempt import ItemResult
from stagefleet.errors import (
    BrokenStageError,
    CircuitOpenError,
    ContentError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StagefleetError,
    StageNotFoundError,
    UsageError,
)
from stagefleet.images import StageDescription
from stagefleet.leases import Lease
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.project import Project
from stagefleet.projects.circuit_breakers import errors_as_warnings
from stagefleet.projects.final_list import FinalLists
from stagefleet.storages.router import StorageRouter

__all__ = ["Publication", "SecondaryCopy", "Select", "oldest"]

# Publication of a stage: into the final storage, the source of deployments, and into the caches.

_LOGGER = logging.getLogger(__name__)


class Publication:
    """Publications of one run, from a project's primary storage.

    Args:
        router: Access to stages.
        lists: Lists of the final storages.
        project: The project's storages.
        run_id: The run's id.
        lease: Lease to check in waits and before writes.
    """

    def __init__(
        self,
        router: StorageRouter,
        lists: FinalLists,
        project: Project,
        *,
        run_id: str,
        lease: Lease,
    ) -> None:
        self._router = router
        self._lists = lists
        self._project = project
        self._run = run_id
        self._lease = lease

    def publish(
        self, stage_id: StageId, *, should_be_built: bool = False, image: str | None = None
    ) -> ItemResult:
        """Copy a stage into the final storage; skip it if it is there.

        Args:
            stage_id: The stage.
            should_be_built: True if it has to be there already: nothing is copied.
            image: The stage's name for the error; the final image's name if None.

        Raises:
            UsageError: The project has no final storage.
            StageNotFoundError: The primary does not have it; or it should be built, and is not.
            BrokenStageError: The primary cannot deliver all of it.
        """
        final = self._project.final
        if final is None:
            raise UsageError(f"project {self._project.name} has no final storage to publish to")
        listed = self._lists.of(self._run, final, self._lease)
        is_listed = stage_id in listed
        if is_listed or should_be_built:
            there = self._built(final, stage_id)
            if there is not None:
                _LOGGER.info("use previously built final image %s", there.info.name)
                return ItemResult(there.as_json(), skipped=True)
            if should_be_built:
                named = image or str(final.tagged(str(stage_id)))
                raise StageNotFoundError(
                    f"{named} with digest {stage_id.digest} does not exist in the final storage {final}: "
                    "it should have been built and published before"
                )
            _LOGGER.warning("final storage %s lost stage %s: it gets it again", final, stage_id)
        item_result = self._copy(stage_id, final, verify=not is_listed)
        listed.add(stage_id)
        if item_result.skipped:  # another run or worker has copied it
            there = self._router.stages.describe_current_stage(final, stage_id)
            return ItemResult(there.as_json(), skipped=True)
        return item_result

    def fill_caches(self, stage_id: StageId) -> tuple[dict[str, str], int]:
        """Copy a stage into each cache in turn; a failure is a warning and does not affect other caches.

        Returns:
            The result by cache, `copied`, `present` or the error's message; and the bytes sent.

        Raises:
            StageNotFoundError: The primary does not have it.
            BrokenStageError: The primary cannot deliver all of it.
        """
        states, sent = {}, 0
        for cache in self._project.caches:
            what = f"cache {cache} could not be given stage {stage_id}"
            with (
                errors_as_warnings(
                    what, reraise=(StageNotFoundError, BrokenStageError), quiet=(CircuitOpenError,)
                ) as failure,
                self._router.stages.circuit_breakers.guarding(cache),
            ):
                item_result = self._copy(stage_id, cache, verify=True)
                states[str(cache)] = "present" if item_result.skipped else "copied"
                sent += item_result.bytes
            if failure.error is not None:
                states[str(cache)] = f"failed: {failure.error}"
        return states, sent

    def _copy(self, stage_id: StageId, destination: Repository, *, verify: bool) -> ItemResult:
        return self._router.copy(
            self._project.primary, destination, stage_id, run_id=self._run, verify=verify, lease=self._lease
        )

    def _built(self, final: Repository, stage_id: StageId) -> StageDescription | None:
        """Describe the stage that the final storage has now, without the fleet's memory.

        None for a damaged stage, too, so that it is copied again.
        """
        try:
            self._router.stages.refuse_rejected(final, stage_id, self._lease)
            return self._router.stages.describe_current_stage(final, stage_id)
        except (StageNotFoundError, ContentError, RegistryUnavailableError):
            return None


# Copies of missing stages from the secondary storages into the primary.


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
            if not primary.is_on_host and not self._router.has(primary, stage_id):
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
