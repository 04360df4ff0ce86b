"""Delete a tag in a registry that deletes by digest, with all of a digest's tags.

A digest is deleted only if the run deletes all of its tags and no index that stays has it as a member; see
`DeletionPermit`. Otherwise the tag is first moved aside; see `PlaceholderSwap`. A deleted index takes its
members with it that nothing else uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat

from stagefleet import errors
from stagefleet.attempt import Attempt
from stagefleet.deletion.checks import FRESH_SECONDS, Check, RunItems, confirm_deleted
from stagefleet.deletion.index_members import is_damaged, read_members
from stagefleet.deletion.mode import ProbeResult, delete_manifest
from stagefleet.deletion.placeholder_swap import PlaceholderSwap
from stagefleet.deletion.reference_scan import DigestReferences, ReferenceScan
from stagefleet.deletion.tag_tables import NO_ITEM
from stagefleet.leases import Lease, elapsed_seconds
from stagefleet.logs import errors_as_warnings
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.runs.models import ItemState

_SHOWN_TAGS = 5
_CLIENT_ERRORS = range(400, 500)
_MOST_TRIES = 4
_MOST_USERS_SEEN = 50


@dataclass(frozen=True, slots=True)
class DigestDeletion:
    """One attempt at deleting one tag, by the digest that it names.

    `locked` are the tags of locked stages, None if no others can be locked; `check` raises to prevent the
    deletion for other reasons.
    """

    client: RegistryClient
    scan: ReferenceScan
    reference: Reference
    probe_result: ProbeResult
    attempt: Attempt
    locked: frozenset[str] | None
    check: Check | None

    @property
    def lease(self) -> Lease:
        """The lease of the attempt, and of the locks."""
        return self.attempt.lease

    @property
    def tag(self) -> str:
        """The tag to delete."""
        return self.reference.identifier

    @property
    def repository(self) -> Repository:
        """The repository of the tag."""
        return self.reference.repository

    @property
    def _swap(self) -> PlaceholderSwap:
        return PlaceholderSwap(self.client, self.repository, self.tag, lease=self.lease)

    def execute(self) -> bool:
        """Delete the tag, or complete a broken-off deletion; return True if there was anything to delete."""
        was_there = False
        for _ in range(_MOST_TRIES):
            seen_at = elapsed_seconds()
            try:
                named = self.client.head_manifest(self.reference)
            except errors.NotFoundError:
                return self._leave(seen_at) or was_there
            except errors.StagefleetError as error:
                if not is_damaged(self.client, self.reference, error):
                    raise
                break  # its sharing tags are unknown, but the tag itself can be moved
            was_there = True
            try:
                self._delete(named, seen_at)
            except TagMovedError:
                continue
            except TagInUseError as error:
                self._move_aside(error.tags, named.digest)
            except errors.DeadlineMissedError:
                self._move_aside([], named.digest)  # no reference scan is fresh enough
            return True
        self._move_aside([])
        return True

    def _leave(self, seen_at: float) -> bool:
        """Withdraw the rejection of a missing tag; move the tag aside if the registry still lists it.

        An interrupted DELETE may leave a tag whose manifest is gone (distribution #3191). Return True if a
        deletion was broken off here.
        """
        if self.scan.is_listed(self.tag, since=seen_at):
            self._move_aside([])
            return True
        return self._swap.withdraw_rejection()

    def _delete(self, named: Descriptor, seen_at: float) -> None:
        members = read_members(self.client, self.repository, named, lease=self.lease)
        permit = DeletionPermit(self, named.digest, seen_at)
        digest = Reference.of(self.repository, named.digest)
        was_there = delete_manifest(self.client, digest, lease=self.lease, precheck=permit)
        if not was_there and self.scan.is_listed(self.tag, since=elapsed_seconds()):
            raise TagInUseError([])  # the registry has the tag, but not its manifest
        if was_there:
            confirm_deleted(self.client, self.reference, named.digest, lease=self.lease)
        self._swap.withdraw_rejection()
        self._delete_members(members.digests)  # read before: once the index is gone, its members are unknown

    def _move_aside(self, staying: list[str], content: Digest | None = None) -> None:
        """Move the tag away from its content, if that is known."""
        if self.check is not None:
            self.check()
        if self.probe_result.left:  # a rejection would stay, too
            raise _shared(self.reference, staying, self.probe_result.refusal, passes=self.probe_result.passes)
        swap = self._swap
        try:
            placeholder = swap.move_tag()
        except errors.RegistryError as error:
            if error.status not in _CLIENT_ERRORS or error.retryable:
                raise
            raise _shared(self.reference, staying, str(error)) from error
        swap.delete_placeholder(placeholder, content)

    def _delete_members(self, members: Iterable[Digest]) -> None:
        """Delete members that only the deleted index used.

        Of two indexes that are deleted at once and share a member, the later one finds the other gone, and
        deletes the member. Failures are left to the registry's collection of untagged manifests.
        """
        for member in members:
            reference = Reference.of(self.repository, member)
            with errors_as_warnings(f"{reference} stays, though no index has it any more"):
                try:
                    delete_manifest(self.client, reference, lease=self.lease, precheck=self._permit(member))
                except TagInUseError:
                    continue

    def _permit(self, member: Digest) -> Callable[[], float]:
        """Create a check that nothing uses a member."""
        own = frozenset({self.tag})  # it may have been pushed again
        return rescanning(partial(check_unused, self.client, self.scan, self.repository, member, also=own))


def rescanning(check: Callable[[float], float]) -> Callable[[], float]:
    """Create a precheck from a check by scans newer than a time; each call but the first scans again."""
    newer_than = chain([-math.inf], repeat(math.inf))
    return lambda: check(next(newer_than))


def check_unused(
    client: RegistryClient,
    scan: ReferenceScan,
    repository: Repository,
    digest: Digest,
    newer_than: float,
    *,
    also: frozenset[str] = frozenset(),
    but: frozenset[str] = frozenset(),
) -> float:
    """Check that no tag and no tagged index uses a digest; return until when the result is valid.

    Raises `TagInUseError`; `also` are tags that have to be gone, `but` those that may use it.
    """
    began = elapsed_seconds()
    found = scan.find(digest, newer_than=min(began, newer_than))
    users = (found.tags | found.holders | also) - but
    unreadable = set(found.unreadable) - also - but
    for user in () if len(users) > _MOST_USERS_SEEN else users:
        if is_there(client, repository.tagged(user)):
            raise TagInUseError([user])
    if found.since is None or unreadable or len(users) > _MOST_USERS_SEEN:
        raise TagInUseError(unreadable)
    return min(began, found.since) + FRESH_SECONDS


def _shared(
    reference: Reference, staying: list[str], refusal: str, *, passes: bool = False
) -> errors.SharedDigestError | errors.RegistryUnavailableError:
    shown = ", ".join(staying[:_SHOWN_TAGS])
    more = f" and {len(staying) - _SHOWN_TAGS} more" if len(staying) > _SHOWN_TAGS else ""
    shares = (
        f"shares its digest with {shown}{more}, or may" if staying else "may share its digest with others"
    )
    what = (
        f"{reference} {shares}, and the registry lets it neither be deleted alone nor be moved aside "
        f"({refusal})"
    )
    if passes:
        return errors.RegistryUnavailableError(what, method="DELETE", repository=str(reference.repository))
    return errors.SharedDigestError(f"{what}: delete those too, or let this login push and delete")


# Permit to delete a digest for one tag, required before each request that does so.


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

    The tag named `digest` at `seen_at` (on `elapsed_seconds`).
    """

    def __init__(self, deletion: DigestDeletion, digest: Digest, seen_at: float) -> None:
        self._deletion = deletion
        self._digest = digest
        self._seen_at: float | None = seen_at

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
        began = elapsed_seconds() if self._deletion.check is None else self._deletion.check()
        newer_than = -math.inf if self._seen_at is not None else elapsed_seconds()
        seen_at = self._check_tag()
        found = self._find_references(newer_than)
        others = (found.tags | found.holders) - {self._deletion.tag}
        to_delete = self._deletion.scan.to_delete(others)
        staying = others.difference(to_delete).union(found.unreadable) - {self._deletion.tag}
        staying |= self._in_the_way({tag: to_delete[tag] for tag in found.holders if tag in to_delete})
        if staying or found.since is None:
            raise TagInUseError(staying)
        shared = found.tags - {self._deletion.tag}
        self._check_locks(frozenset(tag for tag in shared if StageId.from_tag(tag)))
        self._deletion.scan.deleted_tags.add(shared)
        return min(began, seen_at, found.since) + FRESH_SECONDS

    def _find_references(self, newer_than: float) -> DigestReferences:
        try:
            return self._deletion.scan.find(self._digest, newer_than=newer_than)
        except errors.RegistryError as error:
            if error.retryable or isinstance(error, errors.ForbiddenError):
                raise
            raise TagInUseError([]) from error  # some registries do not list tags

    def _check_tag(self) -> float:
        """Check that the tag still names the digest; the first time `seen_at` serves."""
        seen_at, self._seen_at = self._seen_at, None
        if seen_at is not None:
            return seen_at
        seen_at = elapsed_seconds()
        if self._deletion.client.head_manifest(self._deletion.reference).digest != self._digest:
            raise TagMovedError
        return seen_at

    def _in_the_way(self, holders: Mapping[str, int]) -> set[str]:
        """Return the indexes that the run, or a later one of its plan, deletes and that still exist.

        Those of the run are deleted first, so that an index that cannot be deleted never loses a member.
        """
        items = self._deletion.attempt.to_delete
        if isinstance(items, RunItems):
            of_others = {tag: index for tag, index in holders.items() if index not in {NO_ITEM, items.own}}
            item_states = items.item_states(list(of_others.values())) if of_others else []
            self._await(dict(zip(of_others, item_states, strict=True)), of_others)
        return {
            tag for tag in holders if is_there(self._deletion.client, self._deletion.repository.tagged(tag))
        }

    def _await(self, item_states: Mapping[str, ItemState | None], indexes: Mapping[str, int]) -> None:
        for tag, standing in sorted(item_states.items()):
            index = self._deletion.repository.tagged(tag)
            if standing is ItemState.FAILED:
                raise errors.IndexNotDeletedError(
                    f"{self._deletion.reference} stays: it is a member of the index {index}, which this "
                    "run could not delete; see why, and delete both again"
                )
            if standing is ItemState.CANCELLED:
                raise errors.ItemCancelledError(
                    f"the run was cancelled, and so {index} stays with its members"
                )
        for tag, standing in sorted(item_states.items()):
            if standing is None:
                raise errors.ItemPostponedError(
                    f"{self._deletion.reference} goes after the index {tag}, which has it as a member",
                    indexes[tag],
                )

    def _check_locks(self, stages: frozenset[str]) -> None:
        locked = self._deletion.locked
        if lacking := stages - (locked or frozenset()):
            raise TagInUseError(lacking) if locked is None else LocksMissingError(lacking)


def is_there(client: RegistryClient, tag: Reference) -> bool:
    """Return True if a tag exists, even a damaged one."""
    try:
        client.head_manifest(tag)
    except errors.NotFoundError:
        return False
    except errors.StagefleetError as error:
        if not is_damaged(client, tag, error):
            raise
    return True
