"""Task that deletes one stage from a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult, TagsToDelete
from stagefleet.deletion.checks import RunItems
from stagefleet.errors import StageNotFoundError
from stagefleet.logs import errors_as_warnings
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.operations.delete import DeleteOperation, PruneOperation
from stagefleet.storages.storages import Storages


def delete_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the stage `attempt.item`, as `DeleteOperation` says; from the caches first, which may fail.

    The run's other items decide if a digest that stages share may be deleted; so do the tags that a later run
    deletes in the same repository.
    """
    operation, stage_id = attempt.parsed(DeleteOperation), StageId.parse(attempt.item)
    caches = operation.caches or ()
    had_it = delete_from_caches(storages, caches, stage_id, attempt, referrers=operation.referrers)
    to_delete = tags_to_delete(attempt, lambda item: (item,), also=operation.also)
    informed = replace(attempt, to_delete=to_delete)
    item_result = _delete(
        storages, operation.repository, stage_id, informed, referrers=operation.referrers, also=operation.also
    )
    return counted_as_deleted(item_result, attempt, had_it=had_it)


def prune_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the stage `attempt.item`, as `PruneOperation` says, unless the source has it now."""
    source = storages.open(attempt.parsed(PruneOperation).source)
    with suppress(StageNotFoundError):
        stage_id = StageId.parse(attempt.item)
        source.refuse_rejected(stage_id, attempt.lease)
        source.find_digest(stage_id)
        return ItemResult({"reason": "is in the source"}, skipped=True)
    return delete_stage(storages, attempt)


def delete_from_caches(
    storages: Storages,
    caches: Sequence[Repository],
    stage_id: StageId,
    attempt: Attempt,
    *,
    referrers: bool = False,
) -> bool:
    """Delete a stage from each cache; return True if one had it.

    A failure is a warning: a cache may have anything at any time. Each that keeps the stage is reported,
    also one that is skipped.
    """
    had_it = False
    for cache in caches:
        with (
            errors_as_warnings(f"cache {cache} keeps stage {stage_id}"),
            storages.circuit_breakers.guarding(cache),
        ):
            had_it |= _delete(storages, cache, stage_id, attempt, referrers=referrers) != NOT_THERE
    return had_it


def _delete(
    storages: Storages,
    address: StorageAddress,
    stage_id: StageId,
    attempt: Attempt,
    *,
    referrers: bool,
    also: Iterable[str] = (),
) -> ItemResult:
    if referrers and not address.is_on_host:
        return storages.open(address).delete_with_referrers(stage_id, attempt, also=also)
    return storages.open(address).delete(stage_id, attempt)


def counted_as_deleted(item_result: ItemResult, attempt: Attempt, *, had_it: bool = False) -> ItemResult:
    """Return the result of a deletion as its run counts it.

    What a later attempt finds gone counts as deleted: an earlier one may have ended after its request.
    """
    is_deleted = had_it or attempt.number > 1
    return ItemResult() if item_result == NOT_THERE and is_deleted else item_result


def tags_to_delete(
    attempt: Attempt, tags: Callable[[str], Iterable[str]], *, also: Iterable[str] = ()
) -> TagsToDelete:
    """Return the tags that a run deletes, with the state of its items.

    `tags` returns those that an item deletes; `also` are those that later runs of the same plan delete.
    """
    others = attempt.others
    if others is None:
        return lambda: chain((tag for item in attempt.to_delete() for tag in tags(item)), also)
    return RunItems(others.numbered, tags, others.item_states, own=others.own, also=also)
