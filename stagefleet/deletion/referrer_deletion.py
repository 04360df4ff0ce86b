"""Delete what refers to a stage, once no tag keeps its image: see `stagefleet/registry/referrers.py`.

The stage goes first: one without its signatures would be worse than signatures without a stage. Before, the
digests that it led to are remembered for the whole fleet, so that the next attempt, or the next run that
names the stage, finds what one that was killed has left.

Of each image, first go the referrers by digest, those of referrers before them; then the index that stands
in for the API ("Referrers Tag Schema": who deletes a referrer corrects it); then cosign's tags.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from stagefleet import errors
from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.deletion import mode
from stagefleet.deletion.checks import confirm_deleted
from stagefleet.deletion.digest_deletion import TagInUseError, check_unused, rescanning
from stagefleet.deletion.index_members import is_damaged, read_members
from stagefleet.deletion.tag_deletion import TagDeletions
from stagefleet.fleet_registries import Registries
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry.referrers import Referrer, ReferrerLookup, fallback_tag
from stagefleet.shared_state.base import FLEET_NAMESPACE

_MOST_ROUNDS = 20
_MOST_NOTES = 10
_REMEMBERED_SECONDS = 24 * 3600
_WAIT_SECONDS = 60


def delete_with_referrers(
    deletions: TagDeletions,
    repository: Repository,
    stage_id: StageId,
    attempt: Attempt,
    delete: Callable[[], ItemResult],
    *,
    also: frozenset[str] = frozenset(),
) -> ItemResult:
    """Delete a stage, then what refers to its image and to the members of its index; count the latter apart.

    What another tag keeps stays, and so do the referrers of an image that has another tag.

    Args:
        delete: What deletes the stage itself; its errors are those of the whole.
        also: Tags that a later run of the same plan deletes: they keep no image.
    """
    subjects = _Subjects(deletions.registries, repository, stage_id)
    digests = subjects.read(attempt)
    item_result = delete()
    if not digests:
        return item_result
    deletion = ReferrerDeletion(deletions, repository, attempt, also)
    deletion.execute(digests)
    subjects.forget()
    if item_result == NOT_THERE and not deletion.deleted:
        return item_result
    counted: dict[str, Any] = {"referrers": deletion.deleted}
    if deletion.notes:
        counted["notes"] = list(dict.fromkeys(deletion.notes))[:_MOST_NOTES]
    return replace(ItemResult() if item_result == NOT_THERE else item_result, result=counted)


class _Subjects:
    """The digests that a stage leads to, remembered from before its deletion to the end of the referrers'."""

    def __init__(self, registries: Registries, repository: Repository, stage_id: StageId) -> None:
        self._registries = registries
        self._tag = repository.tagged(str(stage_id))
        self._key = f"subjects {self._tag}"

    def read(self, attempt: Attempt) -> list[Digest]:
        """Return what the stage leads to now, and what it led to before a deletion that was broken off."""
        shared_state = self._registries.shared_state
        before = [Digest.parse(text) for text in shared_state.peek(FLEET_NAMESPACE, self._key) or ()]
        digests = list(dict.fromkeys([*before, *self._read_now(attempt)]))
        if digests != before:
            if before:
                self.forget()
            shared_state.get_or_compute(
                FLEET_NAMESPACE,
                self._key,
                lambda: list(map(str, digests)),
                ttl_seconds=_REMEMBERED_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                lease=attempt.lease,
            )
        return digests

    def forget(self) -> None:
        """Forget them."""
        self._registries.shared_state.forget_value(FLEET_NAMESPACE, self._key)

    def _read_now(self, attempt: Attempt) -> list[Digest]:
        client = self._registries.client
        try:
            named = client.head_manifest(self._tag, lease=attempt.lease)
        except errors.StagefleetError as error:  # gone, or damaged
            if not is_damaged(client, self._tag, error):
                raise
            return []
        members = read_members(client, self._tag.repository, named, lease=attempt.lease)
        return [] if members.is_placeholder else [named.digest, *members.digests]


class _SubjectKeptError(Exception):
    """Something uses an image whose referrers were to go."""


class ReferrerDeletion:
    """One attempt at deleting the referrers of images that no tag keeps.

    Attributes:
        deleted: How many manifests and tags of cosign went.
        notes: What a person should know of those that stayed.
    """

    def __init__(
        self, deletions: TagDeletions, repository: Repository, attempt: Attempt, also: frozenset[str]
    ) -> None:
        self._registries = registries = deletions.registries
        self._client = registries.client
        self._deletions = deletions
        self._repository = repository
        self._attempt = attempt
        self._scan = deletions.scan(repository, attempt)
        self._tags = registries.referrer_tags(repository, attempt.run_id, attempt.lease)
        self._lookup = ReferrerLookup(self._client, repository, self._tags)
        self._also = also
        self._below: dict[Digest, list[Referrer]] = {}
        self._own_tags: set[str] = set()
        self._going: set[Digest] = set()
        self._gone: set[Digest] = set()
        self._done: set[Digest] = set()
        self.deleted = 0
        self.notes: list[str] = []

    def execute(self, subjects: Iterable[Digest]) -> None:
        """Delete what refers to some images, and what refers to that."""
        wanted = list(subjects)
        for _ in range(_MOST_ROUNDS):
            before = self.deleted
            self._lookup = ReferrerLookup(self._client, self._repository, self._tags)
            found = list(self._lookup.find_all(wanted))
            if not found and not any(self._lookup.may_exist(fallback_tag(subject)) for subject in wanted):
                return
            self._own_tags, self._below = set(map(fallback_tag, wanted)), {}
            self._done.clear()
            unused = [subject for subject in wanted if self._is_unused(subject)]
            self._choose(unused, found)
            for subject in unused:
                self._delete_below(subject)
            if not self._lookup.is_cut_short or self.deleted == before:
                return

    def _choose(self, unused: Iterable[Digest], found: Iterable[Referrer]) -> None:
        """Choose the referrers that go, by their subjects: those of what stays, stay."""
        self._going = set(unused)
        self._own_tags = set(map(fallback_tag, self._going))
        for referrer in found:
            if referrer.subject not in self._going or not (referrer.tag or self._refers(referrer)):
                continue
            if self._may_go(referrer) or referrer.tag:  # of a tag that goes, other tags may keep the image
                self._below.setdefault(referrer.subject, []).append(referrer)

    def _may_go(self, referrer: Referrer) -> bool:
        """Return True if nothing uses a referrer but what goes with it."""
        digest, own = referrer.descriptor.digest, {referrer.tag} - {""}
        self._own_tags |= own
        try:
            self._check(digest)
        except TagInUseError as error:
            self._own_tags -= own
            if not referrer.tag:
                self._note(digest, _reason(error))
            return False
        self._going.add(digest)
        self._own_tags.add(fallback_tag(digest))
        return True

    def _refers(self, referrer: Referrer) -> bool:
        """Return True if a manifest names its subject itself; an index may list anything."""
        digest = referrer.descriptor.digest
        try:
            subject = self._lookup.fetch(referrer).subject
        except errors.NotFoundError:
            self._gone.add(digest)
            return False
        except (errors.ContentError, errors.RegistryUnavailableError) as error:
            self._note(digest, str(error))
            return False
        return subject is not None and subject.digest == referrer.subject

    def _delete_below(self, subject: Digest) -> None:
        if subject in self._done or subject not in self._going:
            return
        self._done.add(subject)
        referrers = self._below.get(subject, ())
        for referrer in referrers:
            self._attempt.lease.check()
            self._delete_below(referrer.descriptor.digest)
            if not referrer.tag:
                self._delete_digest(referrer)
        self._correct_index(subject)
        for referrer in referrers:
            if referrer.tag:
                self._delete_tag(referrer.tag, subject)

    def _delete_digest(self, referrer: Referrer) -> None:
        digest = referrer.descriptor.digest
        reference = Reference.of(self._repository, digest)

        def check(newer_than: float) -> float:
            return min(self._check(used, newer_than) for used in (referrer.subject, digest))

        try:
            was_there = mode.delete_manifest(
                self._client, reference, lease=self._attempt.lease, precheck=rescanning(check)
            )
        except errors.DeletionDisabledError:
            self._note(digest, "the registry deletes no digest; its collection of untagged manifests may")
        except TagInUseError as error:
            self._note(digest, _reason(error))
            return
        except errors.DeadlineMissedError:
            self._note(digest, _reason(TagInUseError([])))
            return
        except errors.RegistryError as error:
            if error.retryable:
                raise
            self._note(digest, str(error))
            return
        else:
            if was_there:
                confirm_deleted(self._client, reference, digest, lease=self._attempt.lease)
            self.deleted += was_there
        self._gone.add(digest)

    def _correct_index(self, subject: Digest) -> None:
        """Take what is gone out of the index under the fallback tag; delete it if nothing is left in it."""
        tag = fallback_tag(subject)
        if not self._lookup.may_exist(tag):
            return
        stage_locks = self._registries.stage_locks
        with stage_locks.lock_referrers(self._repository, subject, self._attempt) as lease:
            try:
                index = self._lookup.fallback_index(subject)
            except errors.UnsupportedManifestError:
                return  # somebody's own
            if index is None:
                return
            document: dict[str, Any] = json.loads(index.raw)
            gone = set(map(str, self._gone))
            kept = [entry for entry in document["manifests"] if entry.get("digest") not in gone]
            if not kept:
                self._delete_tag(tag, subject, counts=False)
            elif len(kept) < len(document["manifests"]):
                shorter = Manifest.of(document | {"manifests": kept})
                try:
                    self._client.put_manifest(self._repository.tagged(tag), shorter, lease=lease)
                except errors.RegistryError as error:
                    if error.retryable:
                        raise
                    reference = self._repository.tagged(tag)
                    self.notes.append(f"{reference} lists referrers that are gone: {error}")

    def _delete_tag(self, tag: str, subject: Digest, *, counts: bool = True) -> None:
        def check() -> None:
            try:
                self._check(subject)
            except TagInUseError as error:
                raise _SubjectKeptError(_reason(error)) from error

        try:
            deleted = self._deletions.delete(self._repository, tag, self._attempt, check=check)
        except _SubjectKeptError as error:
            self.notes.append(f"{self._repository.tagged(tag)} stays: {error}")
        except (errors.RegistryError, errors.SharedDigestError) as error:
            if error.retryable:
                raise
            self.notes.append(f"{self._repository.tagged(tag)} stays: {error}")
        else:
            self.deleted += counts and deleted != NOT_THERE

    # What uses a digest

    def _is_unused(self, digest: Digest) -> bool:
        try:
            self._check(digest)
        except TagInUseError as error:
            self.notes.append(f"the referrers of {self._repository}@{digest} stay: {_reason(error)}")
            return False
        return True

    def _check(self, digest: Digest, newer_than: float = -math.inf) -> float:
        own = self._also.union(self._own_tags)
        return check_unused(self._client, self._scan, self._repository, digest, newer_than, but=own)

    def _note(self, digest: Digest, reason: str) -> None:
        self.notes.append(f"{self._repository}@{digest} stays: {reason}")


def _reason(error: TagInUseError) -> str:
    if not error.tags:
        return "there are too many other tags to tell in time that none of them uses it"
    return f"{error.tags[0]} uses it, or may"
