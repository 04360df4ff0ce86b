"""Publication of a stage: into the final storage, the source of deployments, and into the caches."""

from __future__ import annotations

import logging

from stagefleet.errors import (
    BrokenStageError,
    CircuitOpenError,
    ContentError,
    RegistryUnavailableError,
    StageNotFoundError,
    UsageError,
)
from stagefleet.images import StageDescription
from stagefleet.manager.final_list import FinalLists
from stagefleet.manager.item_result import ItemResult
from stagefleet.manager.storage_router import StorageRouter
from stagefleet.manager.tolerated_errors import errors_as_warnings
from stagefleet.names import Repository, StageId
from stagefleet.project import Project
from stagefleet.registry.lease import Lease

__all__ = ["Publication"]

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
