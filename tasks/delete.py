"""Deleting one stage from a repository."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import Repository, StageId
from tasks.base import Job

__all__ = ["delete_stage"]


def delete_stage(manager: StageManager, job: Job) -> Produced:
    """Delete the stage that `job.item` names; option `repository`.

    What else the run is to delete decides whether a digest that stages share may go as a whole.
    """
    return manager.delete_stage(
        Repository.parse(job.options["repository"]),
        StageId.parse(job.item),
        run=job.run,
        asked=job.asked,
        leash=job.leash,
    )
