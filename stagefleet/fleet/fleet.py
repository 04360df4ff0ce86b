"""The fleet: the main class of the public API."""

from __future__ import annotations

from stagefleet.fleet.fetch_runs import FetchRuns
from stagefleet.fleet.project_runs import PublishRuns
from stagefleet.fleet.purge import PurgeRuns
from stagefleet.fleet.records import RecordRuns
from stagefleet.fleet.stage_runs import IndexRuns, StageRuns

__all__ = ["Fleet"]


class Fleet(StageRuns, RecordRuns, PublishRuns, IndexRuns, PurgeRuns, FetchRuns):
    """Runs of work on stages, and data about them; thread-safe.

    Use `Fleet.connect` with a Redis that workers listen to, or `Fleet.embedded` without one. Close it, or
    use it in a `with` statement. Each base class has one family of methods; `FleetBase` has what they share.
    """
