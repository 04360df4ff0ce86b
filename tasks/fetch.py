"""Task that fetches one stage to this worker's host: its engine pulls the image, from a cache if one has it.

Storages are asked directly, never the fleet's memory of them: the stage must be there now.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.locks.stage_locks import image_of
from stagefleet.logs import errors_as_warnings
from stagefleet.names import EngineProject, Repository, StageId
from stagefleet.operations.fetch import FetchOperation
from stagefleet.storages.delivery import StageDelivery
from stagefleet.storages.stage_verification import Defect, StageVerification
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer

_LOGGER = logging.getLogger(__name__)


def fetch_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Fetch the stage `attempt.item`, as `FetchOperation` says.

    One lock covers all its platforms. The result is the description, under the primary's name.
    """
    fetch = _StageFetch(storages, attempt)
    with storages.host.images.lock_shared(fetch.image, check=attempt.lease.check):
        return fetch.execute()


class _StageFetch:
    """One attempt at fetching one stage to this host; `image` is the name of its image in the engine."""

    def __init__(self, storages: Storages, attempt: Attempt) -> None:
        self._storages = storages
        self._attempt = attempt
        self._lease = attempt.lease
        operation = attempt.parsed(FetchOperation)
        self._project, self._platforms = operation.storages, operation.selection
        self._stage_id = StageId.parse(attempt.item)
        self.image = image_of(self._project.primary, self._stage_id)

    def execute(self) -> ItemResult:
        """Fetch the stage; skip it if its image is present.

        Raises:
            StorageStateChangedError: The primary no longer has it, or it is broken: look it up again.
            PlatformNotFoundError: It has no image for a requested platform.
            EngineError: The engine could not pull it.
        """
        primary, stage_id = self._project.primary, self._stage_id
        if primary.is_on_host:
            return self._require_present(primary)
        delivery = StageDelivery(self._storages, primary, stage_id, self._platforms, self._lease)
        item_result = delivery.find_present()
        if item_result is not None:
            return item_result
        lacking: list[Repository] = []
        item_result = self._from_caches(delivery, lacking)
        if item_result is None:
            item_result = self._from_primary(delivery, primary)
        failed = self._refill(primary, lacking)
        return (
            replace(item_result, result={**(item_result.result or {}), "caches": failed})
            if failed
            else item_result
        )

    def _require_present(self, primary: EngineProject) -> ItemResult:
        """Check that the engine, which is the primary storage itself, has the stage."""
        storage = self._storages.open(primary)
        try:
            description = storage.read(self._stage_id)
        except errors.StageNotFoundError as error:
            raise self._changed(error) from error
        storage.host.note_use(storage.name_of(self._stage_id))
        return ItemResult(description.as_json(), skipped=True)

    def _from_caches(self, delivery: StageDelivery, lacking: list[Repository]) -> ItemResult | None:
        """Pull the stage from the first cache that delivers it; collect the caches before it in `lacking`."""
        for cache in self._project.caches:
            what = f"cache {cache} does not give stage {self._stage_id}"
            with (
                errors_as_warnings(what, quiet=(errors.CircuitOpenError,)),
                self._storages.circuit_breakers.guarding(cache),
            ):
                try:
                    return delivery.pull(cache)
                except errors.StageNotFoundError:
                    _LOGGER.info("cache %s does not have stage %s", cache, self._stage_id)
            lacking.append(cache)
        return None

    def _from_primary(self, delivery: StageDelivery, primary: Repository) -> ItemResult:
        try:
            self._storages.open(primary).refuse_rejected(self._stage_id, self._lease)
            return delivery.pull(primary)
        except errors.StageNotFoundError as error:
            _LOGGER.warning("stage %s is no longer available in %s", self._stage_id, primary)
            raise self._changed(error) from error
        except (
            errors.NotFoundError,
            errors.BrokenStageError,
            errors.DigestMismatchError,
            errors.TruncatedError,
        ) as error:
            self._judge(delivery, primary, error)
            raise self._changed(error) from error

    def _judge(self, delivery: StageDelivery, primary: Repository, error: errors.StagefleetError) -> None:
        """Reject a broken stage, but only after two reads of our own confirmed it.

        A multi-platform stage is never rejected: builders would then refuse to build its image for good. If
        the registry delivers all of it, or the reads are inconclusive, the error is temporary.
        """
        stage_id = self._stage_id
        try:
            defect = self._find_defect(delivery, primary)
        except errors.StageNotFoundError:
            _LOGGER.warning("stage %s is no longer available in %s", stage_id, primary)
            return
        if defect is None:
            raise errors.TruncatedError(f"{error}; but here it gives all of it: try again") from error
        if defect.member is not None or stage_id.is_multiplatform:
            what = "" if defect.member in {None, defect.content.digest} else f" in its member {defect.member}"
            raise errors.BrokenStageError(
                f"{primary} {defect}{what} of the multi-platform stage {stage_id}: run "
                f"stagefleet delete {primary} {stage_id}, and build it again"
            ) from error
        _LOGGER.warning("stage %s will be rejected: %s %s", stage_id, primary, defect)
        self._storages.open(primary).reject(stage_id, project=self._project.name, lease=self._lease)

    def _find_defect(self, delivery: StageDelivery, primary: Repository) -> Defect | None:
        """Return the requested content that the primary cannot deliver; None if reads are inconclusive."""
        try:
            members = delivery.wanted_members(primary)
            client = self._storages.registries.client
            verification = StageVerification(client, primary, self._stage_id, lease=self._lease)
            return verification.find_defect(members)
        except (errors.BrokenStageError, errors.PlatformNotFoundError):
            return None  # the manifest cannot be read, or only the engine knows its choice

    def _refill(self, primary: Repository, lacking: Sequence[Repository]) -> dict[str, str]:
        """Copy the stage into the caches that lacked it; failures are returned by cache."""
        failed = {}
        for cache in lacking:
            what = f"cache {cache} could not be given stage {self._stage_id}"
            with (
                errors_as_warnings(what, quiet=(errors.CircuitOpenError,)) as failure,
                self._storages.circuit_breakers.guarding(cache),
            ):
                transfer(self._storages, primary, cache, self._stage_id, self._attempt)
            if failure.error is not None:
                failed[str(cache)] = f"failed: {failure.error}"
        return failed

    def _changed(self, error: errors.StagefleetError) -> errors.StorageStateChangedError:
        return errors.StorageStateChangedError(
            f"stage {self._stage_id} is not what it was when it was found: {error}"
        )
