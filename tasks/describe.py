"""Task that describes one stage of a project."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import StageId
from stagefleet.roles import Roles
from tasks.base import Job

__all__ = ["describe_stage"]


def describe_stage(manager: StageManager, job: Job) -> Produced:
    """Describe the stage `job.item`, through the project's caches; options: `Roles.as_options`.

    The result is the description, which the fleet remembers.
    """
    project = manager.project(Roles.of_options(job.options))
    return Produced(project.lookup.describe(StageId.parse(job.item)).as_json())
