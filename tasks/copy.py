"""Task that copies one stage between storages."""

from __future__ import annotations

from stagefleet.manager import Produced, StageManager
from stagefleet.names import DockerDaemon, StageId, parse_address
from tasks.base import Job

__all__ = ["copy_stage"]


def copy_stage(manager: StageManager, job: Job) -> Produced:
    """Copy the stage `job.item`.

    Options: `source`, `destination` (one may be this host's engine), `verify` (compare an existing stage).
    """
    options = job.options
    source, destination = parse_address(options["source"]), parse_address(options["destination"])
    stage_id, verify = StageId.parse(job.item), options.get("verify", False)
    if isinstance(source, DockerDaemon) or isinstance(destination, DockerDaemon):
        return manager.host.copy_stage(
            source, destination, stage_id, run=job.run, verify=verify, leash=job.leash
        )
    return manager.copy_stage(
        source,
        destination,
        stage_id,
        run=job.run,
        verify=verify,
        leash=job.leash,
    )
