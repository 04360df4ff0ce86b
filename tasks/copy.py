"""Task that copies one stage between storages."""

from __future__ import annotations

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.names import StageId, parse_address
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer

__all__ = ["copy_stage"]


def copy_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Copy the stage `attempt.item`.

    Options: `source`, `destination` (one may be this host's engine), `verify` (compare an existing stage).
    """
    options = attempt.options
    return transfer(
        storages,
        parse_address(options["source"]),
        parse_address(options["destination"]),
        StageId.parse(attempt.item),
        attempt,
        verify=options.get("verify", False),
    )
