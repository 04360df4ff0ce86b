"""Fetching one stage to this worker's host."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import StageId
from stagefleet.roles import Roles
from tasks.base import Job

__all__ = ["fetch_stage"]


def fetch_stage(manager: StageManager, job: Job) -> Produced:
    """Fetch the stage that `job.item` names; options as `Roles.as_options` gives them.

    The result is the description, under the primary's name.
    """
    roles = Roles.of_options(job.options)
    return manager.host.fetch_stage(roles, StageId.parse(job.item), run=job.run, leash=job.leash)
