"""Registries as a fleet uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stagefleet.errors import NotFoundError
from stagefleet.leases import Lease
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Repository, StageId
from stagefleet.records.image import make_rejection
from stagefleet.records.registry import put_record
from stagefleet.registry.client import RegistryClient
from stagefleet.rejections import Rejections
from stagefleet.shared_state.base import FLEET_NAMESPACE, SharedState
from stagefleet.shared_state.remembered_stages import RememberedStages

_REJECTIONS_SECONDS = 30
_REJECTIONS_WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Registries:
    """The client of registries, and what the processes of a fleet know and lock of them together."""

    client: RegistryClient
    shared_state: SharedState
    stage_locks: StageLocks
    remembered: RememberedStages

    def tags(self, repository: Repository) -> Iterator[str]:
        """List the tags of a repository; empty if it does not exist: the first push creates it."""
        with suppress(NotFoundError):
            yield from self.client.tags(repository)

    def rejections(self, repository: Repository) -> Rejections:
        """Return the rejections in a repository, with the fleet's cache of them."""
        return Rejections(self.client, repository, self.remembered.rejections)

    def rejected_lately(
        self, repository: Repository, read: Callable[[], Iterable[StageId]], lease: Lease
    ) -> Any:
        """Return the ids of rejected stages by a list that the fleet reads now and then."""
        return self.shared_state.get_or_compute(
            FLEET_NAMESPACE,
            _key(repository),
            lambda: sorted(map(str, read())),
            ttl_seconds=_REJECTIONS_SECONDS,
            wait_seconds=_REJECTIONS_WAIT_SECONDS,
            lease=lease,
        )

    def forget_rejections(self, repository: Repository) -> None:
        """Drop the list of rejected stages, after a change."""
        self.shared_state.forget_value(FLEET_NAMESPACE, _key(repository))

    def reject(self, repository: Repository, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Write the record that rejects a stage of a project; a second one changes nothing."""
        reference = repository.tagged(stage_id.rejected_tag)
        put_record(self.client, reference, make_rejection(project), lease=lease)
        self.forget_rejections(repository)
        self.remembered.forget(repository, stage_id)


def _key(repository: Repository) -> str:
    return f"rejected {repository}"
