"""The fleet: the main class of the public API."""

from __future__ import annotations

from stagefleet.client.fetch_runs import FetchRuns
from stagefleet.client.index_runs import IndexRuns
from stagefleet.client.publish_runs import PublishRuns
from stagefleet.client.purge import PurgeRuns
from stagefleet.client.record_runs import RecordRuns
from stagefleet.client.stage_runs import StageRuns

__all__ = ["Fleet"]


class Fleet(StageRuns, RecordRuns, PublishRuns, IndexRuns, PurgeRuns, FetchRuns):
    """Runs of work on stages, and data about them; thread-safe.

    Use `Fleet.connect` with a Redis that workers listen to, or `Fleet.embedded` without one. Close it, or
    use it in a `with` statement. Each base class has one family of methods; `FleetBase` has what they share.
    """
