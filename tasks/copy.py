"""Task that copies one stage between storages."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import StageNotFoundError
from stagefleet.names import Repository, StageId
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
    if destination.is_on_host:
        return copy(last_step=attempt.last_step)
    # Of other runs, the plan has looked.
    is_compared = (operation.referrers or attempt.continues) and not operation.verify
    is_there = is_compared and _has(storages, destination, attempt)
    if not operation.referrers or source.is_on_host:
        return ItemResult(skipped=True) if is_there else copy(last_step=attempt.last_step)
    item_result = ItemResult(skipped=True) if is_there else copy()
    return with_referrers(item_result, storages, source, destination, attempt)


def _has(storages: Storages, repository: Repository, attempt: Attempt) -> bool:
    """Return True if a plan would find the stage in a repository, where it is not rejected."""
    storage, stage_id = storages.open(repository), StageId.parse(attempt.item)
    with suppress(StageNotFoundError):
        storage.refuse_rejected(stage_id, attempt.lease)
        return storage.has(str(stage_id))
    return False
