"""Task that deletes one stage from a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from stagefleet.manager import Produced, StageManager
from stagefleet.manager.eviction import evict_stage
from stagefleet.manager.run_items import Asked, RunItems
from stagefleet.names import DockerDaemon, Repository, StageId, parse_address
from stagefleet.use_policy import UsePolicy
from tasks.base import Job

__all__ = ["asked_by", "delete_stage"]


def delete_stage(manager: StageManager, job: Job) -> Produced:
    """Delete the stage `job.item`.

    Options: `repository`; for this host's engine, those of `UsePolicy`, too; `caches`, from which it is
    deleted first, and which may fail. The run's other items decide if a digest that stages share may be
    deleted; so do the tags of the option `also`, which a later run deletes in the same repository.
    """
    address, stage_id = parse_address(job.options["repository"]), StageId.parse(job.item)
    caches = [Repository.parse(cache) for cache in job.options.get("caches", ())]
    evict_stage(manager, caches, stage_id, run=job.run, asked=job.asked, leash=job.leash)
    if isinstance(address, DockerDaemon):
        policy = UsePolicy.of_options(job.options)
        return manager.host.delete_stage(address, stage_id, policy, run=job.run, leash=job.leash)
    asked = asked_by(job, lambda item: (item,), also=job.options.get("also", ()))
    return manager.delete_stage(address, stage_id, run=job.run, asked=asked, leash=job.leash)


def asked_by(job: Job, tags: Callable[[str], Iterable[str]], *, also: Iterable[str] = ()) -> Asked:
    """Return the tags that a run deletes, with the state of its items.

    Args:
        job: The attempt.
        tags: Returns the tags that an item deletes.
        also: Tags that later runs of the same plan delete.
    """
    others = job.others
    if others is None:
        return lambda: chain((tag for item in job.asked() for tag in tags(item)), also)
    return RunItems(others.numbered, tags, others.standings, own=others.own, also=also)
