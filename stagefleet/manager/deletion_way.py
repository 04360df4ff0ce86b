"""Effect of deletions in a repository: of a tag alone, or of a digest and all its tags.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 if it is off. Some registries accept
it and delete the other tags of the digest, too, so a trial decides. Its result holds for one repository:
there may be several registries behind one host, by path.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from stagefleet.errors import RegistryError
from stagefleet.manager.deletion_probe import (
    DeletionProbe,
    DeletionWay,
    Trial,
    delete_manifest,
    words_on_probe_tags,
)
from stagefleet.names import Reference, Repository
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import FLEET, SharedBook

__all__ = [
    "DeletionWay",
    "Trial",
    "delete_manifest",
    "find_way",
    "forget_way",
    "may_move_aside",
    "refuses_tags",
    "words_on_what_stays",
]

_REMEMBERED_SECONDS = 24 * 3600
_REFUSED_SECONDS = 600
_PASSING_SECONDS = 60
_WAIT_SECONDS = 60
_METHOD_NOT_ALLOWED = 405
_BAD_REQUEST = 400


def find_way(client: RegistryClient, book: SharedBook, reference: Reference, *, leash: Leash) -> Trial:
    """Find out how a registry deletes; once per repository for the whole fleet, and remembered for a day.

    Args:
        client: Client for registries.
        book: Stores the result.
        reference: The manifest or tag to delete later; without it in the repository there is no trial.
        leash: Lease to check in waits and before writes.

    Raises:
        NotFoundError: The reference does not exist; nothing was found out.
        DeletionDisabledError: Deletion is switched off; this is not remembered.
    """
    found = _ask(client, book, reference, leash)
    if found["until"] < time.time():  # a refusal that left tags may have been temporary
        forget_way(book, reference.repository)
        found = _ask(client, book, reference, leash)
    return Trial(DeletionWay(found["way"]), tuple(found["left"]), found["refusal"], found["passes"])


def forget_way(book: SharedBook, repository: Repository) -> None:
    """Drop the result, because the registry's behaviour has changed."""
    book.drop(FLEET, _key(repository))


def may_move_aside(book: SharedBook, repository: Repository) -> bool:
    """Return True if tags may have been moved aside: the registry is not known to delete tags."""
    found = book.peek(FLEET, _key(repository))
    return found is None or DeletionWay(found["way"]) is not DeletionWay.TAG


def words_on_what_stays(book: SharedBook, repositories: Iterable[Repository]) -> list[str]:
    """Report for each repository, in one line, which of our tags cannot be removed; nothing for most."""
    known = ((repository, book.peek(FLEET, _key(repository))) for repository in repositories)
    return [
        words_on_probe_tags(repository, found["left"], found["refusal"])
        for repository, found in known
        if found and found["left"]
    ]


def refuses_tags(error: RegistryError) -> bool:
    """Return True if an error means that tags cannot be deleted (400 on distribution 2, else 405)."""
    return error.status in {_BAD_REQUEST, _METHOD_NOT_ALLOWED}


def _ask(client: RegistryClient, book: SharedBook, reference: Reference, leash: Leash) -> Any:
    def try_it() -> dict[str, Any]:
        trial = DeletionProbe(client, reference, leash).carry_out()
        return asdict(trial) | {"until": time.time() + _seconds_of(trial)}

    return book.once(
        FLEET,
        _key(reference.repository),
        try_it,
        ttl_seconds=_REMEMBERED_SECONDS,
        wait_seconds=_WAIT_SECONDS,
        leash=leash,
    )


def _seconds_of(trial: Trial) -> float:
    """Return the lifetime of a trial's result."""
    if not trial.left:
        return _REMEMBERED_SECONDS
    return _PASSING_SECONDS if trial.passes else _REFUSED_SECONDS


def _key(repository: Repository) -> str:
    return f"deletion {repository}"
