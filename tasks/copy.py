"""Task that copies one stage between storages."""

from __future__ import annotations

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.names import StageId
from stagefleet.operations.copy import CopyOperation
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer


def copy_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item`, as `CopyOperation` says."""
    operation, stage_id = attempt.parsed(CopyOperation), StageId.parse(attempt.item)
    source, destination = operation.source, operation.destination
    return transfer(
        storages,
        source,
        destination,
        stage_id,
        attempt,
        verify=operation.verify,
        foreign_layers=operation.foreign_layers,
    )
