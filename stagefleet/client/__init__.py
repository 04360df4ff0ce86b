"""The public API: `Fleet`, its arguments and plans."""

from stagefleet.client.callbacks import RemoteCallback
from stagefleet.client.fleet import Fleet
from stagefleet.client.operations import Plan

__all__ = ["Fleet", "Plan", "RemoteCallback"]
