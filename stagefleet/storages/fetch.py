"""Fetch a stage to a host: its engine pulls the image, from a cache if one has it.

Storages are asked directly, never the fleet's memory of them: the stage must be there now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from stagefleet.attempt import ItemResult
from stagefleet.engine.connection import Engine
from stagefleet.errors import (
    BrokenStageError,
    CircuitOpenError,
    DigestMismatchError,
    NotFoundError,
    PlatformNotFoundError,
    StagefleetError,
    StageNotFoundError,
    StorageStateChangedError,
    TruncatedError,
)
from stagefleet.leases import Lease
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.platforms import PlatformSelection
from stagefleet.project import Project
from stagefleet.projects.circuit_breakers import CircuitBreakers, errors_as_warnings
from stagefleet.registry import RegistryClient
from stagefleet.storages.delivery import StageDelivery
from stagefleet.storages.docker_engine import EngineStorage
from stagefleet.storages.stage_verification import Defect, StageVerification

__all__ = ["FetchStages", "StageFetch"]

_LOGGER = logging.getLogger(__name__)


class FetchStages(Protocol):
    """Part of the storage manager that a fetch needs."""

    @property
    def circuit_breakers(self) -> CircuitBreakers:
        """The caches that are skipped after an outage."""

    def refuse_rejected(self, repository: Repository, stage_id: StageId, lease: Lease) -> None:
        """Raise `StageNotFoundError` for a stage that is rejected."""

    def reject_stage(self, repository: Repository, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Reject a stage that is broken."""

    def note_arrival(self, repository: Repository, stage_id: StageId) -> None:
        """Record that a stage came to a repository by other means than `copy_stage`."""

    def copy_stage(
        self,
        source: Repository,
        destination: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        verify: bool = False,
        lease: Lease,
    ) -> ItemResult:
        """Copy a stage from registry to registry."""


class StageFetch:
    """One attempt at fetching one stage to this host.

    Args:
        stages: Copies into caches, and reads and writes rejections.
        client: Client for registries.
        engine: The host's engine.
        note: Called with the name of each image that was used here.
        project: The project's storages.
        platforms: The requested platforms of a multi-platform stage.
        run_id: The run's id.
        lease: Lease to check in waits and before writes.
    """

    def __init__(
        self,
        stages: FetchStages,
        client: RegistryClient,
        engine: Engine,
        note: Callable[[str], None],
        project: Project,
        *,
        platforms: PlatformSelection,
        run_id: str,
        lease: Lease,
    ) -> None:
        self._stages = stages
        self._client = client
        self._engine = engine
        self._note = note
        self._project = project
        self._platforms = platforms
        self._run = run_id
        self._lease = lease

    def execute(self, stage_id: StageId) -> ItemResult:
        """Fetch the stage; skip it if its image is present.

        Raises:
            StorageStateChangedError: The primary no longer has it, or it is broken: look it up again.
            PlatformNotFoundError: It has no image for a requested platform.
            EngineError: The engine could not pull it.
        """
        primary = self._project.primary
        if primary.is_on_host:
            return self._require_present(primary, stage_id)
        delivery = StageDelivery(
            self._client,
            self._engine,
            self._note,
            primary,
            stage_id,
            platforms=self._platforms,
            lease=self._lease,
        )
        item_result = delivery.find_present()
        if item_result is not None:
            return item_result
        lacking: list[Repository] = []
        item_result = self._from_caches(delivery, stage_id, lacking)
        if item_result is None:
            item_result = self._from_primary(delivery, primary, stage_id)
        failed = self._refill(primary, stage_id, lacking)
        return (
            replace(item_result, result={**(item_result.result or {}), "caches": failed})
            if failed
            else item_result
        )

    def _require_present(self, primary: EngineProject, stage_id: StageId) -> ItemResult:
        """Check that the engine, which is the primary storage itself, has the stage."""
        storage = EngineStorage(self._engine, primary)
        try:
            description = storage.describe(stage_id)
        except StageNotFoundError as error:
            raise _changed(stage_id, error) from error
        self._note(storage.name_of(stage_id))
        return ItemResult(description.as_json(), skipped=True)

    def _from_caches(
        self, delivery: StageDelivery, stage_id: StageId, lacking: list[Repository]
    ) -> ItemResult | None:
        """Pull the stage from the first cache that delivers it; collect the caches before it in `lacking`."""
        for cache in self._project.caches:
            what = f"cache {cache} does not give stage {stage_id}"
            with (
                errors_as_warnings(what, quiet=(CircuitOpenError,)),
                self._stages.circuit_breakers.guarding(cache),
            ):
                try:
                    return delivery.pull(cache)
                except StageNotFoundError:
                    _LOGGER.info("cache %s does not have stage %s", cache, stage_id)
            lacking.append(cache)
        return None

    def _from_primary(self, delivery: StageDelivery, primary: Repository, stage_id: StageId) -> ItemResult:
        try:
            self._stages.refuse_rejected(primary, stage_id, self._lease)
            return delivery.pull(primary)
        except StageNotFoundError as error:
            _LOGGER.warning("stage %s is no longer available in %s", stage_id, primary)
            raise _changed(stage_id, error) from error
        except (NotFoundError, BrokenStageError, DigestMismatchError, TruncatedError) as error:
            self._judge(delivery, primary, stage_id, error)
            raise _changed(stage_id, error) from error

    def _judge(
        self, delivery: StageDelivery, primary: Repository, stage_id: StageId, error: StagefleetError
    ) -> None:
        """Reject a broken stage, but only after two reads of our own confirmed it.

        A multi-platform stage is never rejected: builders would then refuse to build its image for good.

        Raises:
            TruncatedError: The registry delivers all of it, or the reads are inconclusive.
            BrokenStageError: It is an index that lacks requested content; says what to do.
        """
        try:
            defect = self._find_defect(delivery, primary, stage_id)
        except StageNotFoundError:
            _LOGGER.warning("stage %s is no longer available in %s", stage_id, primary)
            return
        if defect is None:
            raise TruncatedError(f"{error}; but here it gives all of it: try again") from error
        if defect.member is not None or stage_id.is_multiplatform:
            what = "" if defect.member in {None, defect.content.digest} else f" in its member {defect.member}"
            raise BrokenStageError(
                f"{primary} {defect}{what} of the multi-platform stage {stage_id}: run "
                f"stagefleet delete {primary} {stage_id}, and build it again"
            ) from error
        _LOGGER.warning("stage %s will be rejected: %s %s", stage_id, primary, defect)
        self._stages.reject_stage(primary, stage_id, project=self._project.name, lease=self._lease)

    def _find_defect(self, delivery: StageDelivery, primary: Repository, stage_id: StageId) -> Defect | None:
        """Return the requested content that the primary cannot deliver; None if reads are inconclusive."""
        try:
            members = delivery.wanted_members(primary)
            return StageVerification(self._client, primary, stage_id, lease=self._lease).find_defect(members)
        except (BrokenStageError, PlatformNotFoundError):
            return None  # the manifest cannot be read, or only the engine knows its choice

    def _refill(
        self, primary: Repository, stage_id: StageId, lacking: Sequence[Repository]
    ) -> dict[str, str]:
        """Copy the stage into the caches that lacked it; failures are returned by cache."""
        failed = {}
        for cache in lacking:
            what = f"cache {cache} could not be given stage {stage_id}"
            with (
                errors_as_warnings(what, quiet=(CircuitOpenError,)) as failure,
                self._stages.circuit_breakers.guarding(cache),
            ):
                self._stages.copy_stage(primary, cache, stage_id, run_id=self._run, lease=self._lease)
            if failure.error is not None:
                failed[str(cache)] = f"failed: {failure.error}"
        return failed


def _changed(stage_id: StageId, error: StagefleetError) -> StorageStateChangedError:
    return StorageStateChangedError(f"stage {stage_id} is not what it was when it was found: {error}")
