"""Rejection of broken stages, so that nobody uses them."""

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
    """Write the record that rejects a stage; a second one changes nothing.

    Args:
        client: Client for registries.
        repository: The repository that has the stage.
        stage_id: The stage.
        project: The project that it belongs to.
        leash: Lease to check before the write.

    Raises:
        RegistryError: The record cannot be written.
    """
    reference = repository.tagged(stage_id.rejected_tag)
    put_record(client, reference, make_rejection(project), leash=leash)


def rejections_key(repository: Repository) -> str:
    """Return the book's key of a repository's list of rejected stages."""
    return f"rejected {repository}"


def forget_rejections(book: SharedBook, repository: Repository) -> None:
    """Drop the list of rejected stages from the book, after a change."""
    book.drop(FLEET, rejections_key(repository))
