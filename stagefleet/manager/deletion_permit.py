"""Permit to delete a digest for one tag, required before each request that does so."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from stagefleet.clock import elapsed_seconds
from stagefleet.errors import (
    ForbiddenError,
    IndexStaysError,
    ItemCancelledError,
    ItemPostponedError,
    NotFoundError,
    RegistryError,
    StagefleetError,
)
from stagefleet.manager.freshness import FRESH_SECONDS, Check
from stagefleet.manager.index_members import is_damaged
from stagefleet.manager.run_items import Asked, RunItems
from stagefleet.manager.survey import DigestLook, Survey
from stagefleet.manager.tag_tables import NO_ITEM
from stagefleet.names import Digest, Reference, StageId
from stagefleet.registry import RegistryClient
from stagefleet.runs.model import ItemState

__all__ = [
    "DigestPermit",
    "LocksLackingError",
    "TagMovedError",
    "TagStaysError",
    "is_there",
]


class TagStaysError(Exception):
    """The digest must not be deleted.

    Args:
        tags: Tags that share it and stay, or may; empty if they cannot be found in time.
    """

    def __init__(self, tags: Collection[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = sorted(tags)


class TagMovedError(Exception):
    """The tag names another digest now."""


class LocksLackingError(Exception):
    """Other deleted stages share the digest, and need locks first.

    Args:
        tags: Their tags.
    """

    def __init__(self, tags: frozenset[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = tags


class DigestPermit:
    """Decides if a digest may be deleted now, so that one tag goes and no tag that stays.

    Args:
        client: Client for registries.
        survey: Finds the users of the digest.
        tag: The tag to delete.
        digest: The digest it named.
        seen_at: Time of reading that, on `elapsed_seconds`.
        asked: Returns the tags that the run deletes.
        locked: The tags of locked stages; None if no others can be locked.
        check: Raises to prevent the deletion for other reasons.
    """

    def __init__(
        self,
        client: RegistryClient,
        survey: Survey,
        tag: Reference,
        digest: Digest,
        *,
        seen_at: float,
        asked: Asked,
        locked: frozenset[str] | None,
        check: Check | None,
    ) -> None:
        self._client = client
        self._survey = survey
        self._reference = tag
        self._tag = tag.identifier
        self._digest = digest
        self._seen_at: float | None = seen_at
        self._asked = asked
        self._locked = locked
        self._check = check

    def __call__(self) -> float:
        """Check, and return the latest time for a request that deletes the digest to leave.

        Raises:
            NotFoundError: The tag is gone.
            TagMovedError: It names another digest.
            TagStaysError: A tag or index that stays shares the digest, or may.
            LocksLackingError: Other deleted stages share it, and are not locked.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            IndexStaysError: Such an index could not be deleted.
            ItemCancelledError: The run was cancelled before such an index was deleted.
        """
        began = elapsed_seconds() if self._check is None else self._check()
        newer_than = -math.inf if self._seen_at is not None else elapsed_seconds()
        seen_at = self._see_tag()
        look = self._look(newer_than)
        others = (look.tags | look.holders) - {self._tag}
        asked = self._survey.asked(others)
        staying = others.difference(asked).union(look.unreadable) - {self._tag}
        staying |= self._in_the_way({tag: asked[tag] for tag in look.holders if tag in asked})
        if staying or look.since is None:
            raise TagStaysError(staying)
        self._see_locks(frozenset(tag for tag in look.tags if StageId.from_tag(tag)) - {self._tag})
        return min(began, seen_at, look.since) + FRESH_SECONDS

    def _look(self, newer_than: float) -> DigestLook:
        try:
            return self._survey.look(self._digest, newer_than=newer_than)
        except RegistryError as error:
            if error.retryable or isinstance(error, ForbiddenError):
                raise
            raise TagStaysError([]) from error  # some registries do not list tags

    def _see_tag(self) -> float:
        """Check that the tag still names the digest; the first time `seen_at` serves."""
        seen_at, self._seen_at = self._seen_at, None
        if seen_at is not None:
            return seen_at
        seen_at = elapsed_seconds()
        if self._client.head_manifest(self._reference).digest != self._digest:
            raise TagMovedError
        return seen_at

    def _in_the_way(self, holders: Mapping[str, int]) -> set[str]:
        """Return the indexes that the run, or a later one of its plan, deletes and that still exist.

        Those of the run are deleted first, so that an index that cannot be deleted never loses a member.
        """
        items = self._asked if isinstance(self._asked, RunItems) else None
        waited_for = {
            tag: index
            for tag, index in holders.items()
            if items is not None and index not in {NO_ITEM, items.own}
        }
        if items is not None and waited_for:
            standings = items.standings(list(waited_for.values()))
            self._await(dict(zip(waited_for, standings, strict=True)), waited_for)
        return {tag for tag in holders if is_there(self._client, self._reference.repository.tagged(tag))}

    def _await(self, standings: Mapping[str, ItemState | None], indexes: Mapping[str, int]) -> None:
        for tag, standing in sorted(standings.items()):
            index = self._reference.repository.tagged(tag)
            if standing is ItemState.FAILED:
                raise IndexStaysError(
                    f"{self._reference} stays: it is a member of the index {index}, which this run could not "
                    "delete; see why, and delete both again"
                )
            if standing is ItemState.CANCELLED:
                raise ItemCancelledError(f"the run was cancelled, and so {index} stays with its members")
        for tag, standing in sorted(standings.items()):
            if standing is None:
                raise ItemPostponedError(
                    f"{self._reference} goes after the index {tag}, which has it as a member", indexes[tag]
                )

    def _see_locks(self, stages: frozenset[str]) -> None:
        lacking = stages - (self._locked or frozenset())
        if not lacking:
            return
        if self._locked is None:
            raise TagStaysError(lacking)
        raise LocksLackingError(lacking)


def is_there(client: RegistryClient, tag: Reference) -> bool:
    """Return True if a tag exists, even a damaged one."""
    try:
        client.head_manifest(tag)
    except NotFoundError:
        return False
    except StagefleetError as error:
        if not is_damaged(client, tag, error):
            raise
    return True
