"""Copying one stage from one repository to another."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import Repository, StageId
from tasks.base import Job

__all__ = ["copy_stage"]


def copy_stage(manager: StageManager, job: Job) -> Produced:
    """Copy the stage that `job.item` names.

    Options: `source`, `destination` (repositories), `verify` (compare digests of what is there already).
    """
    options = job.options
    return manager.copy_stage(
        Repository.parse(options["source"]),
        Repository.parse(options["destination"]),
        StageId.parse(job.item),
        run=job.run,
        verify=options.get("verify", False),
        leash=job.leash,
    )
