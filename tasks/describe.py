"""Task that describes one stage of a project."""

from __future__ import annotations

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.names import StageId
from stagefleet.project import Project
from stagefleet.projects.lookup import StageLookup
from stagefleet.storages.storages import Storages

__all__ = ["describe_stage"]


def describe_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Describe the stage `attempt.item`, through the project's caches; options: `Project.as_options`.

    The result is the description, which the fleet remembers.
    """
    lookup = StageLookup(storages, Project.of_options(attempt.options))
    return ItemResult(lookup.describe(StageId.parse(attempt.item)).as_json())
