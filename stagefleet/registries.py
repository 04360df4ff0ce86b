"""Registries as a fleet uses them."""

from __future__ import annotations

from dataclasses import dataclass

from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Repository
from stagefleet.registry import RegistryClient
from stagefleet.rejections import Rejections
from stagefleet.shared_state.base import SharedState
from stagefleet.shared_state.remembered_stages import RememberedStages

__all__ = ["Registries"]

_REJECTIONS_SECONDS = 30
_REJECTIONS_WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Registries:
    """The client of registries, and what the processes of a fleet know and lock of them together.

    Attributes:
        client: Client for registries.
        shared_state: The shared state.
        stage_locks: The fleet's locks on stages.
        remembered: The fleet's memory of storages.
    """

    client: RegistryClient
    shared_state: SharedState
    stage_locks: StageLocks
    remembered: RememberedStages

    def rejections(self, repository: Repository) -> Rejections:
        """Return the rejections in a repository, with the fleet's cache of them."""
        return Rejections(self.client, repository, self.remembered.rejections)
