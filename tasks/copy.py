"""Task that copies one stage between storages."""

from __future__ import annotations

from functools import partial

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.names import StageId
from stagefleet.operations.copy import CopyOperation
from stagefleet.storages.referrer_copy import with_referrers
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer


def copy_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item`, as `CopyOperation` says."""
    operation = attempt.parsed(CopyOperation)
    source, destination = operation.source, operation.destination
    copy = partial(
        transfer,
        storages,
        source,
        destination,
        StageId.parse(attempt.item),
        attempt,
        verify=operation.verify,
        foreign_layers=operation.foreign_layers,
    )
    if not operation.referrers or source.is_on_host or destination.is_on_host:
        return copy(last_step=attempt.last_step)
    is_there = not operation.verify and storages.open(destination).has(attempt.item)
    item_result = ItemResult(skipped=True) if is_there else copy()
    return with_referrers(item_result, storages, source, destination, attempt)
