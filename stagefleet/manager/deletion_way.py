"""How a repository's registry deletes: by tag and that tag alone, or by digest and every tag of it.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 where it is off. Some registries
accept it and take the other tags of the digest along, so it is tried. What was found out holds for the one
repository: behind one host there may be several registries, by path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from stagefleet.errors import RegistryError
from stagefleet.manager.deletion_probe import (
    DeletionProbe,
    DeletionWay,
    delete_manifest,
    words_on_probe_tags,
)
from stagefleet.names import Reference, Repository
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import FLEET, SharedBook

__all__ = [
    "DeletionWay",
    "delete_manifest",
    "find_way",
    "forget_way",
    "refuses_tags",
    "words_on_what_stays",
]

_REMEMBERED_SECONDS = 24 * 3600
_WAIT_SECONDS = 60
_METHOD_NOT_ALLOWED = 405
_BAD_REQUEST = 400


def find_way(client: RegistryClient, book: SharedBook, reference: Reference, *, leash: Leash) -> DeletionWay:
    """Find out how a registry deletes; once a repository for the whole fleet, and remembered for a day.

    Args:
        client: Speaks to registries.
        book: Remembers.
        reference: What is to be deleted; nothing is tried in a repository that does not have it.
        leash: Holds the work back.

    Raises:
        NotFoundError: The reference is not there; nothing was found out.
        DeletionDisabledError: Deletion is switched off; this is not remembered.
    """
    found = book.once(
        FLEET,
        _key(reference.repository),
        lambda: asdict(DeletionProbe(client, reference, leash).carry_out()),
        ttl_seconds=_REMEMBERED_SECONDS,
        wait_seconds=_WAIT_SECONDS,
        leash=leash,
    )
    return DeletionWay(found["way"])


def forget_way(book: SharedBook, repository: Repository) -> None:
    """Find out again the next time: the registry has changed its mind."""
    book.drop(FLEET, _key(repository))


def words_on_what_stays(book: SharedBook, repositories: Iterable[Repository]) -> list[str]:
    """Say of each repository, in one line, which tags of ours it does not let go; nothing of most."""
    known = ((repository, book.peek(FLEET, _key(repository))) for repository in repositories)
    return [
        words_on_probe_tags(repository, found["left"])
        for repository, found in known
        if found and found["left"]
    ]


def refuses_tags(error: RegistryError) -> bool:
    """Whether an error says that tags cannot be deleted (400 on distribution 2, else 405)."""
    return error.status in {_BAD_REQUEST, _METHOD_NOT_ALLOWED}


def _key(repository: Repository) -> str:
    return f"deletion {repository}"
