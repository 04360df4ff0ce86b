"""What a CI orchestrator imports: the fleet, and what it would do."""

from stagefleet.client.callbacks import RemoteCallback
from stagefleet.client.fleet import Fleet
from stagefleet.client.work import Plan

__all__ = ["Fleet", "Plan", "RemoteCallback"]
