"""Task that describes one stage of a project."""

from __future__ import annotations

from stagefleet.attempt import ItemResult
from stagefleet.names import StageId
from stagefleet.project import Project
from stagefleet.storages.manager import StageManager
from tasks.item import Attempt

__all__ = ["describe_stage"]


def describe_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Describe the stage `job.item`, through the project's caches; options: `Project.as_options`.

    The result is the description, which the fleet remembers.
    """
    project = manager.project(Project.of_options(attempt.options))
    return ItemResult(project.lookup.describe(StageId.parse(attempt.item)).as_json())
