"""Reject a stage that is broken: nobody takes it from then on."""

from __future__ import annotations

from stagefleet.names import Repository, StageId
from stagefleet.records import make_rejection
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import FLEET, SharedBook
from stagefleet.storages.record_writer import put_record

__all__ = ["forget_rejections", "reject_stage", "rejections_key"]


def reject_stage(
    client: RegistryClient, repository: Repository, stage_id: StageId, *, project: str, leash: Leash
) -> None:
    """Write the record that rejects a stage; written twice it is the same.

    Args:
        client: Speaks to registries.
        repository: Where the stage is.
        stage_id: Which.
        project: The project that it belongs to.
        leash: Holds the work back.

    Raises:
        RegistryError: The record cannot be written.
    """
    reference = repository.tagged(stage_id.rejected_tag)
    put_record(client, reference, make_rejection(project), leash=leash)


def rejections_key(repository: Repository) -> str:
    """Where the fleet's book has the list of a repository's rejected stages."""
    return f"rejected {repository}"


def forget_rejections(book: SharedBook, repository: Repository) -> None:
    """Let the list of rejected stages be read again: it has changed."""
    book.drop(FLEET, rejections_key(repository))
