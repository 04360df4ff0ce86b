"""Permit to delete a digest for one tag, required before each request that does so."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from stagefleet.attempt import TagsToDelete
from stagefleet.deletion.checks import FRESH_SECONDS, Check, RunItems
from stagefleet.deletion.index_members import is_damaged
from stagefleet.deletion.reference_scan import DigestReferences, ReferenceScan
from stagefleet.deletion.tag_tables import NO_ITEM
from stagefleet.errors import (
    ForbiddenError,
    IndexNotDeletedError,
    ItemCancelledError,
    ItemPostponedError,
    NotFoundError,
    RegistryError,
    StagefleetError,
)
from stagefleet.leases import elapsed_seconds
from stagefleet.names import Digest, Reference, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.runs.models import ItemState


class TagInUseError(Exception):
    """The digest must not be deleted: tags share it and stay, or may; none are named if not found in time."""

    def __init__(self, tags: Collection[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = sorted(tags)


class TagMovedError(Exception):
    """The tag names another digest now."""


class LocksMissingError(Exception):
    """Other deleted stages share the digest, and need locks first."""

    def __init__(self, tags: frozenset[str]) -> None:
        super().__init__(sorted(tags))
        self.tags = tags


class DeletionPermit:
    """Decides if a digest may be deleted now, so that one tag goes and no tag that stays.

    `tag` named `digest` at `seen_at` (on `elapsed_seconds`); `locked` are the tags of locked stages, None if
    no others can be locked; `check` raises to prevent the deletion for other reasons.
    """

    def __init__(
        self,
        client: RegistryClient,
        scan: ReferenceScan,
        tag: Reference,
        digest: Digest,
        *,
        seen_at: float,
        to_delete: TagsToDelete,
        locked: frozenset[str] | None,
        check: Check | None,
    ) -> None:
        self._client = client
        self._scan = scan
        self._reference = tag
        self._tag = tag.identifier
        self._digest = digest
        self._seen_at: float | None = seen_at
        self._to_delete = to_delete
        self._locked = locked
        self._check = check

    def __call__(self) -> float:
        """Check, and return the latest time for a request that deletes the digest to leave.

        Raises:
            NotFoundError: The tag is gone.
            TagMovedError: It names another digest.
            TagInUseError: A tag or index that stays shares the digest, or may.
            LocksMissingError: Other deleted stages share it, and are not locked.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            IndexNotDeletedError: Such an index could not be deleted.
            ItemCancelledError: The run was cancelled before such an index was deleted.
        """
        began = elapsed_seconds() if self._check is None else self._check()
        newer_than = -math.inf if self._seen_at is not None else elapsed_seconds()
        seen_at = self._check_tag()
        found = self._find_references(newer_than)
        others = (found.tags | found.holders) - {self._tag}
        to_delete = self._scan.to_delete(others)
        staying = others.difference(to_delete).union(found.unreadable) - {self._tag}
        staying |= self._in_the_way({tag: to_delete[tag] for tag in found.holders if tag in to_delete})
        if staying or found.since is None:
            raise TagInUseError(staying)
        self._check_locks(frozenset(tag for tag in found.tags if StageId.from_tag(tag)) - {self._tag})
        self._scan.deleted_tags.add(found.tags - {self._tag})
        return min(began, seen_at, found.since) + FRESH_SECONDS

    def _find_references(self, newer_than: float) -> DigestReferences:
        try:
            return self._scan.find(self._digest, newer_than=newer_than)
        except RegistryError as error:
            if error.retryable or isinstance(error, ForbiddenError):
                raise
            raise TagInUseError([]) from error  # some registries do not list tags

    def _check_tag(self) -> float:
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
        items = self._to_delete if isinstance(self._to_delete, RunItems) else None
        waited_for = {
            tag: index
            for tag, index in holders.items()
            if items is not None and index not in {NO_ITEM, items.own}
        }
        if items is not None and waited_for:
            item_states = items.item_states(list(waited_for.values()))
            self._await(dict(zip(waited_for, item_states, strict=True)), waited_for)
        return {tag for tag in holders if is_there(self._client, self._reference.repository.tagged(tag))}

    def _await(self, item_states: Mapping[str, ItemState | None], indexes: Mapping[str, int]) -> None:
        for tag, standing in sorted(item_states.items()):
            index = self._reference.repository.tagged(tag)
            if standing is ItemState.FAILED:
                raise IndexNotDeletedError(
                    f"{self._reference} stays: it is a member of the index {index}, which this run could not "
                    "delete; see why, and delete both again"
                )
            if standing is ItemState.CANCELLED:
                raise ItemCancelledError(f"the run was cancelled, and so {index} stays with its members")
        for tag, standing in sorted(item_states.items()):
            if standing is None:
                raise ItemPostponedError(
                    f"{self._reference} goes after the index {tag}, which has it as a member", indexes[tag]
                )

    def _check_locks(self, stages: frozenset[str]) -> None:
        lacking = stages - (self._locked or frozenset())
        if not lacking:
            return
        if self._locked is None:
            raise TagInUseError(lacking)
        raise LocksMissingError(lacking)


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
