"""Task that fetches one stage to this worker's host."""

from __future__ import annotations

from stagefleet.attempt import ItemResult
from stagefleet.names import StageId
from stagefleet.platforms import PlatformSelection
from stagefleet.project import Project
from stagefleet.storages.manager import StageManager
from tasks.item import Attempt

__all__ = ["fetch_stage"]


def fetch_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Fetch the stage `job.item`; options: those of `Project` and `PlatformSelection`.

    The result is the description, under the primary's name.
    """
    project, platforms = Project.of_options(attempt.options), PlatformSelection.of_options(attempt.options)
    return manager.host.fetch_stage(
        project, StageId.parse(attempt.item), platforms, run_id=attempt.run_id, lease=attempt.lease
    )
