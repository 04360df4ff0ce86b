"""Task that deletes one stage from a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.deletion.checks import RunItems, TagsToDelete
from stagefleet.engine.in_use_policy import InUsePolicy
from stagefleet.names import Repository, StageId, parse_address
from stagefleet.projects.circuit_breakers import delete_from_caches
from stagefleet.storages.manager import StageManager
from tasks.item import Attempt

__all__ = ["counted_as_deleted", "delete_stage", "tags_to_delete"]


def delete_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the stage `job.item`.

    Options: `repository`; for this host's engine, those of `InUsePolicy`, too; `caches`, from which it is
    deleted first, and which may fail. The run's other items decide if a digest that stages share may be
    deleted; so do the tags of the option `also`, which a later run deletes in the same repository.
    """
    address, stage_id = parse_address(attempt.options["repository"]), StageId.parse(attempt.item)
    caches = [Repository.parse(cache) for cache in attempt.options.get("caches", ())]
    had_it = delete_from_caches(
        manager, caches, stage_id, run_id=attempt.run_id, to_delete=attempt.to_delete, lease=attempt.lease
    )
    if address.is_on_host:
        policy = InUsePolicy.of_options(attempt.options)
        item_result = manager.host.delete_stage(
            address, stage_id, policy, run_id=attempt.run_id, lease=attempt.lease
        )
        return counted_as_deleted(item_result, attempt, had_it=had_it)
    to_delete = tags_to_delete(attempt, lambda item: (item,), also=attempt.options.get("also", ()))
    item_result = manager.delete_stage(
        address, stage_id, run_id=attempt.run_id, to_delete=to_delete, lease=attempt.lease
    )
    return counted_as_deleted(item_result, attempt, had_it=had_it)


def counted_as_deleted(item_result: ItemResult, attempt: Attempt, *, had_it: bool = False) -> ItemResult:
    """Return the result of a deletion as its run counts it.

    What a later attempt finds gone counts as deleted: an earlier one may have ended after its request.

    Args:
        item_result: The result of this attempt.
        attempt: The attempt.
        had_it: True if the item was deleted from another storage.
    """
    is_deleted = had_it or attempt.number > 1
    return ItemResult() if item_result == NOT_THERE and is_deleted else item_result


def tags_to_delete(
    attempt: Attempt, tags: Callable[[str], Iterable[str]], *, also: Iterable[str] = ()
) -> TagsToDelete:
    """Return the tags that a run deletes, with the state of its items.

    Args:
        attempt: The attempt.
        tags: Returns the tags that an item deletes.
        also: Tags that later runs of the same plan delete.
    """
    others = attempt.others
    if others is None:
        return lambda: chain((tag for item in attempt.to_delete() for tag in tags(item)), also)
    return RunItems(others.numbered, tags, others.item_states, own=others.own, also=also)
