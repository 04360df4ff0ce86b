"""The permit to delete a digest for the sake of one tag: asked for before each request that does so."""

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
        tags: What shares it and stays, or may; none where that cannot be told in time.
    """

    def __init__(self, tags: Collection[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = sorted(tags)


class TagMovedError(Exception):
    """The tag names something else by now."""


class LocksLackingError(Exception):
    """Other stages go with the digest, and their locks are to be taken first.

    Args:
        tags: Their tags.
    """

    def __init__(self, tags: frozenset[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = tags


class DigestPermit:
    """Say whether a digest may be deleted now, so that one tag goes and no other that stays.

    Args:
        client: Speaks to registries.
        survey: Tells what uses the digest.
        tag: The tag that is to go.
        digest: What it named.
        seen_at: When that was asked, on `elapsed_seconds`.
        asked: Gives what the run deletes.
        locked: The stages' tags whose locks are held; None where no others can be taken.
        check: Raises what else speaks against it.
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
        """Look, and tell until when a request may leave that deletes the digest.

        Raises:
            NotFoundError: The tag is gone.
            TagMovedError: It names something else.
            TagStaysError: Something that stays shares the digest, or may.
            LocksLackingError: Stages share it that go as well, and whose locks are not held.
            ItemPostponedError: An index of the run has it as a member, and has not gone yet.
            IndexStaysError: Such an index could not be deleted.
            ItemCancelledError: The run was cancelled before such an index went.
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
            raise TagStaysError([]) from error  # some registries list no tags

    def _see_tag(self) -> float:
        """See that the tag still names the digest; the first time it was just seen."""
        seen_at, self._seen_at = self._seen_at, None
        if seen_at is not None:
            return seen_at
        seen_at = elapsed_seconds()
        if self._client.head_manifest(self._reference).digest != self._digest:
            raise TagMovedError
        return seen_at

    def _in_the_way(self, holders: Mapping[str, int]) -> set[str]:
        """The indexes that the run, or a later one of its plan, deletes and that still stand.

        Those of the run go first, so that no index that cannot be deleted has lost a member.
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
    """Tell whether a tag is there; a damaged one is."""
    try:
        client.head_manifest(tag)
    except NotFoundError:
        return False
    except StagefleetError as error:
        if not is_damaged(client, tag, error):
            raise
    return True
