"""Task that verifies one stage in a storage."""

from __future__ import annotations

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import ForbiddenError, StageNotFoundError, UsageError
from stagefleet.names import StageId
from stagefleet.operations.verify import VerifyOperation
from stagefleet.storages.base import Storage
from stagefleet.storages.storages import Storages
from stagefleet.storages.verification import VerificationResult


def verify_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Verify the stage `attempt.item`, as `VerifyOperation` says; skip it if it was deleted since the plan.

    Raises:
        BrokenStageError: Some content is missing, altered or unreadable; the class says which.
        StageNotFoundError: It is not on this host.
    """
    operation, stage_id = attempt.parsed(VerifyOperation), StageId.parse(attempt.item)
    storage, shared_state = storages.open(operation.repository), storages.registries.shared_state
    try:
        result = storage.verify(stage_id, attempt, shared_state, shallow=operation.shallow)
    except StageNotFoundError:
        if operation.repository.is_on_host:  # the plan may not have looked there
            raise
        return ItemResult({"reason": "was deleted meanwhile"}, skipped=True)
    error = result.error
    if error is None:
        return result.item_result
    rejected = f"; {_reject(storage, stage_id, result, attempt)}" if operation.reject else ""
    raise type(error)(f"{operation.repository}: {error}{rejected}")


def _reject(storage: Storage, stage_id: StageId, result: VerificationResult, attempt: Attempt) -> str:
    """Reject a broken stage if possible; return what was done."""
    if not result.is_image:
        return "not rejected, as it is not known to be a single image"
    if not result.is_damaged:
        return "not rejected, as it is what was pushed"
    try:
        storage.reject(stage_id, project=storage.address.name, lease=attempt.lease)
    except (UsageError, ForbiddenError) as error:
        return f"not rejected: {error}"
    return "rejected"
