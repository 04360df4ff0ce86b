"""What every storage of stages can do, whatever its medium."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from stagefleet.names import DockerDaemon, Repository, StageId
from stagefleet.stages import StageDescription

__all__ = ["StageStorage"]


class StageStorage(Protocol):
    """A place where stages are kept; from many threads."""

    @property
    def address(self) -> Repository | DockerDaemon:
        """Where it is."""

    def stage_ids(self) -> Collection[StageId]:
        """The stages that it has, without rejected ones; none where it does not exist."""

    def describe(self, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            StageNotFoundError: It is not there.
            BrokenStageError: It is known of, but cannot be given.
        """
