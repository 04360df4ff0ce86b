"""Rejection of broken stages, so that nobody uses them."""

from __future__ import annotations

from stagefleet.names import Repository, StageId
from stagefleet.records import make_rejection
from stagefleet.registry import RegistryClient
from stagefleet.registry.lease import Lease
from stagefleet.runs.shared_state import FLEET_NAMESPACE, SharedState
from stagefleet.storages.record_writer import put_record

__all__ = ["forget_rejections", "reject_stage", "rejections_key"]


def reject_stage(
    client: RegistryClient, repository: Repository, stage_id: StageId, *, project: str, lease: Lease
) -> None:
    """Write the record that rejects a stage; a second one changes nothing.

    Args:
        client: Client for registries.
        repository: The repository that has the stage.
        stage_id: The stage.
        project: The project that it belongs to.
        lease: Lease to check before the write.

    Raises:
        RegistryError: The record cannot be written.
    """
    reference = repository.tagged(stage_id.rejected_tag)
    put_record(client, reference, make_rejection(project), lease=lease)


def rejections_key(repository: Repository) -> str:
    """Return the key in the shared state of a repository's list of rejected stages."""
    return f"rejected {repository}"


def forget_rejections(shared_state: SharedState, repository: Repository) -> None:
    """Drop the list of rejected stages from the shared state, after a change."""
    shared_state.forget_value(FLEET_NAMESPACE, rejections_key(repository))
