"""Task that describes one stage of a project."""

from __future__ import annotations

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.names import StageId
from stagefleet.operations.describe import DescribeOperation
from stagefleet.projects.lookup import StageLookup
from stagefleet.storages.storages import Storages


def describe_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Describe the stage `attempt.item`, through the project's caches; the fleet remembers the result."""
    lookup = StageLookup(storages, attempt.parsed(DescribeOperation).storages)
    return ItemResult(lookup.describe(StageId.parse(attempt.item)).as_json())
