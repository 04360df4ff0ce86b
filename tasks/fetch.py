"""Task that fetches one stage to this worker's host."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import StageId
from stagefleet.platforms import PlatformChoice
from stagefleet.roles import Roles
from tasks.base import Job

__all__ = ["fetch_stage"]


def fetch_stage(manager: StageManager, job: Job) -> Produced:
    """Fetch the stage `job.item`; options: those of `Roles` and `PlatformChoice`.

    The result is the description, under the primary's name.
    """
    roles, platforms = Roles.of_options(job.options), PlatformChoice.of_options(job.options)
    return manager.host.fetch_stage(roles, StageId.parse(job.item), platforms, run=job.run, leash=job.leash)
