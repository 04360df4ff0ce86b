"""Describing one stage of a repository."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import Repository, StageId
from tasks.base import Job

__all__ = ["describe_stage"]


def describe_stage(manager: StageManager, job: Job) -> Produced:
    """Describe the stage that `job.item` names; option `repository`. The result is the description."""
    description = manager.describe_stage(Repository.parse(job.options["repository"]), StageId.parse(job.item))
    return Produced(result=description.as_json())
