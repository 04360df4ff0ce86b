"""Interface of every storage of stages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from stagefleet.images import StageDescription
from stagefleet.names import StageId, StorageAddress

__all__ = ["StageStorage"]


class StageStorage(Protocol):
    """A storage of stages; thread-safe."""

    @property
    def address(self) -> StorageAddress:
        """The storage's address."""

    def stage_ids(self) -> Collection[StageId]:
        """List the stages, without rejected ones; empty if the storage does not exist."""

    def describe(self, stage_id: StageId) -> StageDescription:
        """Describe one stage.

        Raises:
            StageNotFoundError: It does not exist.
            BrokenStageError: It is listed, but its content cannot be read.
        """
