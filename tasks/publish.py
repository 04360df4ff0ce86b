"""Tasks that copy stages between the storages of a project: publish, cache, and take from secondaries."""

from __future__ import annotations

import logging

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.images import StageDescription
from stagefleet.logs import errors_as_warnings
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.base import ProjectOperation
from stagefleet.operations.publish import PublishOperation, TakeOperation
from stagefleet.storages.referrer_copy import with_referrers
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer

_LOGGER = logging.getLogger(__name__)


def publish_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item` from the project's primary into its final storage, unless it is there.

    The result is the description in the final storage; with `fill_caches`, its field `caches` holds the
    result by cache.
    """
    item_result = _publish(storages, attempt)
    operation = attempt.parsed(PublishOperation)
    if operation.referrers and not operation.should_be_built and not operation.primary.is_on_host:
        final = operation.final_repository
        item_result = with_referrers(item_result, storages, operation.primary, final, attempt)
    if not operation.fill_caches:
        return item_result
    cached = cache_stage(storages, attempt)
    return ItemResult(
        (item_result.result or {}) | (cached.result or {}),
        bytes=item_result.bytes + cached.bytes,
        skipped=item_result.skipped and cached.skipped,
    )


def _publish(storages: Storages, attempt: Attempt) -> ItemResult:
    operation, stage_id = attempt.parsed(PublishOperation), StageId.parse(attempt.item)
    final, should_be_built = operation.final_repository, operation.should_be_built
    listed = storages.run_lists.of(final, attempt)
    is_listed = stage_id in listed
    if is_listed or should_be_built:
        there = _built(storages, final, stage_id, attempt)
        if there is not None:
            _LOGGER.info("use previously built final image %s", there.info.name)
            return ItemResult(there.as_json(), skipped=True)
        if should_be_built:
            named = operation.image or str(final.tagged(str(stage_id)))
            raise errors.StageNotFoundError(
                f"{named} with digest {stage_id.digest} does not exist in the final storage {final}: "
                "it should have been built and published before"
            )
        _LOGGER.warning("final storage %s lost stage %s: it gets it again", final, stage_id)
    item_result = transfer(storages, operation.primary, final, stage_id, attempt, verify=not is_listed)
    listed.add(stage_id)
    if item_result.skipped:  # another run or worker has copied it
        return ItemResult(storages.open(final).confirm(stage_id).as_json(), skipped=True)
    return item_result


def _built(
    storages: Storages, final: Repository, stage_id: StageId, attempt: Attempt
) -> StageDescription | None:
    """Describe the stage that the final storage has now; None for a damaged one: it is copied again."""
    storage = storages.open(final)
    try:
        storage.refuse_rejected(stage_id, attempt.lease)
        return storage.confirm(stage_id)
    except (errors.StageNotFoundError, errors.ContentError, errors.RegistryUnavailableError):
        return None


def cache_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item` into each of the project's caches in turn.

    The result holds the state by cache, `copied`, `present` or the error's message; a cache that failed does
    not fail the item.
    """
    project, stage_id = attempt.parsed(ProjectOperation), StageId.parse(attempt.item)
    states, sent = {}, 0
    for cache in project.caches:
        with (
            errors_as_warnings(
                f"cache {cache} could not be given stage {stage_id}",
                reraise=(errors.StageNotFoundError, errors.BrokenStageError),
                quiet=(errors.CircuitOpenError,),
            ) as failure,
            storages.circuit_breakers.guarding(cache),
        ):
            item_result = transfer(storages, project.primary, cache, stage_id, attempt, verify=True)
            states[str(cache)] = "present" if item_result.skipped else "copied"
            sent += item_result.bytes
        if failure.error is not None:
            states[str(cache)] = f"failed: {failure.error}"
    return ItemResult(
        {"caches": states}, bytes=sent, skipped=all(state == "present" for state in states.values())
    )


def take_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item` into the project's primary storage; skip it if that has it.

    It comes from the first secondary that can deliver it: one that fails, or has it damaged, does not prevent
    a copy from the others. The result is the description in the primary.

    Raises:
        StageNotFoundError: No secondary has it.
        StagefleetError: A secondary has it or may have it, but none can deliver it; temporary errors come
            first.
    """
    operation, stage_id = attempt.parsed(TakeOperation), StageId.parse(attempt.item)
    project = operation.storages
    there = _described(storages, project.primary, stage_id)
    if there is not None:
        return ItemResult(there.as_json(), skipped=True)
    failures: list[errors.StagefleetError] = []
    for secondary in project.secondaries:
        try:
            return transfer(storages, secondary, project.primary, stage_id, attempt)
        except errors.StageNotFoundError:
            continue
        except errors.StagefleetError as error:
            if not _is_of(error, secondary):
                raise
            failures.append(error)
    if failures:
        raise next((error for error in failures if error.retryable), failures[0])
    tried = ", ".join(map(str, project.secondaries)) or "there is none"
    raise errors.StageNotFoundError(f"no secondary storage of {project.name} has stage {stage_id} ({tried})")


def _described(storages: Storages, primary: StorageAddress, stage_id: StageId) -> StageDescription | None:
    try:
        if not primary.is_on_host and not storages.open(primary).has(str(stage_id)):
            return None
        return storages.open(primary).describe(stage_id)
    except (errors.StageNotFoundError, errors.ContentError, errors.RegistryUnavailableError):
        return None  # a copy repairs a damaged stage


def _is_of(error: errors.StagefleetError, storage: StorageAddress) -> bool:
    """Return True if an error concerns the source of a copy, so that another source may do."""
    if isinstance(error, errors.ContentError):
        return True
    if isinstance(error, errors.RegistryError):
        return error.repository == str(storage)
    host = getattr(error, "host", "")
    return isinstance(error, errors.RegistryUnreachableError) and host == getattr(storage, "host", None)
