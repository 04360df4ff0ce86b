"""Tasks that copy stages between the storages of a project: publish, cache, and take from secondaries."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import StageId
from stagefleet.roles import Roles
from tasks.base import Job

__all__ = ["cache_stage", "publish_stage", "take_stage"]


def publish_stage(manager: StageManager, job: Job) -> Produced:
    """Copy the stage `job.item` from the project's primary storage into its final one.

    Options: those of `Roles.as_options`; `should_be_built`: it must exist in the final storage; `image`: its
    name in the error if it does not; `fill_caches`: copy it into the caches, too. The result is the
    description in the final storage; with `fill_caches`, its field `caches` holds the result by cache.
    """
    project, stage_id = manager.project(Roles.of_options(job.options)), StageId.parse(job.item)
    produced = project.publish_stage(
        stage_id,
        run=job.run,
        should_be_built=job.options.get("should_be_built", False),
        image=job.options.get("image"),
        leash=job.leash,
    )
    if not job.options.get("fill_caches"):
        return produced
    cached = project.cache_stage(stage_id, run=job.run, leash=job.leash)
    return Produced(
        (produced.result or {}) | (cached.result or {}),
        bytes=produced.bytes + cached.bytes,
        skipped=produced.skipped and cached.skipped,
    )


def cache_stage(manager: StageManager, job: Job) -> Produced:
    """Copy the stage `job.item` into the project's caches; options: `Roles.as_options`.

    The result holds the state by cache; a cache that failed does not fail the item.
    """
    project = manager.project(Roles.of_options(job.options))
    return project.cache_stage(StageId.parse(job.item), run=job.run, leash=job.leash)


def take_stage(manager: StageManager, job: Job) -> Produced:
    """Copy the stage `job.item` from a secondary storage of the project into the primary.

    Options: those of `Roles.as_options`. The result is the description in the primary.
    """
    project = manager.project(Roles.of_options(job.options))
    return project.take_stage(StageId.parse(job.item), run=job.run, leash=job.leash)
