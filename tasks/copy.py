"""Task that copies one stage between storages."""

from __future__ import annotations

from stagefleet.attempt import ItemResult
from stagefleet.names import StageId, parse_address
from stagefleet.storages.manager import StageManager
from tasks.item import Attempt

__all__ = ["copy_stage"]


def copy_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Copy the stage `job.item`.

    Options: `source`, `destination` (one may be this host's engine), `verify` (compare an existing stage).
    """
    options = attempt.options
    source, destination = parse_address(options["source"]), parse_address(options["destination"])
    stage_id, verify = StageId.parse(attempt.item), options.get("verify", False)
    if source.is_on_host or destination.is_on_host:
        return manager.host.copy_stage(
            source, destination, stage_id, run_id=attempt.run_id, verify=verify, lease=attempt.lease
        )
    return manager.copy_stage(
        source,
        destination,
        stage_id,
        run_id=attempt.run_id,
        verify=verify,
        lease=attempt.lease,
    )
