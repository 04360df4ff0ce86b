"""Tasks that copy stages between the storages of a project: publish, cache, and take from secondaries."""

from __future__ import annotations

from stagefleet.attempt import ItemResult
from stagefleet.names import StageId
from stagefleet.project import Project
from stagefleet.storages.manager import StageManager
from tasks.item import Attempt

__all__ = ["cache_stage", "publish_stage", "take_stage"]


def publish_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Copy the stage `job.item` from the project's primary storage into its final one.

    Options: those of `Project.as_options`; `should_be_built`: it must exist in the final storage; `image`:
        its
    name in the error if it does not; `fill_caches`: copy it into the caches, too. The result is the
    description in the final storage; with `fill_caches`, its field `caches` holds the result by cache.
    """
    project, stage_id = manager.project(Project.of_options(attempt.options)), StageId.parse(attempt.item)
    item_result = project.publish_stage(
        stage_id,
        run_id=attempt.run_id,
        should_be_built=attempt.options.get("should_be_built", False),
        image=attempt.options.get("image"),
        lease=attempt.lease,
    )
    if not attempt.options.get("fill_caches"):
        return item_result
    cached = project.cache_stage(stage_id, run_id=attempt.run_id, lease=attempt.lease)
    return ItemResult(
        (item_result.result or {}) | (cached.result or {}),
        bytes=item_result.bytes + cached.bytes,
        skipped=item_result.skipped and cached.skipped,
    )


def cache_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Copy the stage `job.item` into the project's caches; options: `Project.as_options`.

    The result holds the state by cache; a cache that failed does not fail the item.
    """
    project = manager.project(Project.of_options(attempt.options))
    return project.cache_stage(StageId.parse(attempt.item), run_id=attempt.run_id, lease=attempt.lease)


def take_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Copy the stage `job.item` from a secondary storage of the project into the primary.

    Options: those of `Project.as_options`. The result is the description in the primary.
    """
    project = manager.project(Project.of_options(attempt.options))
    return project.take_stage(StageId.parse(attempt.item), run_id=attempt.run_id, lease=attempt.lease)
