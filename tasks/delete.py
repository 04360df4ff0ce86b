"""Task that deletes one stage from a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from stagefleet.in_use_policy import InUsePolicy
from stagefleet.manager import ItemResult, StageManager
from stagefleet.manager.cache_deletion import delete_from_caches
from stagefleet.manager.run_items import RunItems, TagsToDelete
from stagefleet.names import EngineProject, Repository, StageId, parse_address
from tasks.item import Attempt

__all__ = ["delete_stage", "tags_to_delete"]


def delete_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the stage `job.item`.

    Options: `repository`; for this host's engine, those of `InUsePolicy`, too; `caches`, from which it is
    deleted first, and which may fail. The run's other items decide if a digest that stages share may be
    deleted; so do the tags of the option `also`, which a later run deletes in the same repository.
    """
    address, stage_id = parse_address(attempt.options["repository"]), StageId.parse(attempt.item)
    caches = [Repository.parse(cache) for cache in attempt.options.get("caches", ())]
    delete_from_caches(
        manager, caches, stage_id, run_id=attempt.run_id, to_delete=attempt.to_delete, lease=attempt.lease
    )
    if isinstance(address, EngineProject):
        policy = InUsePolicy.of_options(attempt.options)
        return manager.host.delete_stage(
            address, stage_id, policy, run_id=attempt.run_id, lease=attempt.lease
        )
    to_delete = tags_to_delete(attempt, lambda item: (item,), also=attempt.options.get("also", ()))
    return manager.delete_stage(
        address, stage_id, run_id=attempt.run_id, to_delete=to_delete, lease=attempt.lease
    )


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
