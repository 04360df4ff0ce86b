"""How a repository's registry deletes: by tag and that tag alone, or by digest and every tag of it.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 where it is off. Some registries
accept it and take the other tags of the digest along, so it is tried. What was found out holds for the one
repository: behind one host there may be several registries, by path.
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
    found = _ask(client, book, reference, leash)
    if found["until"] < time.time():  # where tags of ours stay, that may have been a passing trouble
        forget_way(book, reference.repository)
        found = _ask(client, book, reference, leash)
    return Trial(DeletionWay(found["way"]), tuple(found["left"]), found["refusal"], found["passes"])


def forget_way(book: SharedBook, repository: Repository) -> None:
    """Find out again the next time: the registry has changed its mind."""
    book.drop(FLEET, _key(repository))


def may_move_aside(book: SharedBook, repository: Repository) -> bool:
    """Whether tags may have been moved aside in a repository: its registry is not known to delete by tag."""
    found = book.peek(FLEET, _key(repository))
    return found is None or DeletionWay(found["way"]) is not DeletionWay.TAG


def words_on_what_stays(book: SharedBook, repositories: Iterable[Repository]) -> list[str]:
    """Say of each repository, in one line, which tags of ours it does not let go; nothing of most."""
    known = ((repository, book.peek(FLEET, _key(repository))) for repository in repositories)
    return [
        words_on_probe_tags(repository, found["left"], found["refusal"])
        for repository, found in known
        if found and found["left"]
    ]


def refuses_tags(error: RegistryError) -> bool:
    """Whether an error says that tags cannot be deleted (400 on distribution 2, else 405)."""
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
    """How long what a trial showed is believed."""
    if not trial.left:
        return _REMEMBERED_SECONDS
    return _PASSING_SECONDS if trial.passes else _REFUSED_SECONDS


def _key(repository: Repository) -> str:
    return f"deletion {repository}"
