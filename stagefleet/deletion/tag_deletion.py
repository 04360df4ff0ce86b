"""Delete a stage or another tag of ours, and no other tag.

If a registry deletes tags alone, that is one request; else see `DigestDeletion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.deletion.checks import FRESH_SECONDS, Check, DeletedTags, checked
from stagefleet.deletion.digest_deletion import DigestDeletion
from stagefleet.deletion.mode import (
    DeletionMode,
    ProbeResult,
    delete_manifest,
    detect_deletion_mode,
    forget_deletion_mode,
    refuses_tags,
)
from stagefleet.deletion.permit import LocksMissingError
from stagefleet.deletion.placeholder_swap import PlaceholderSwap
from stagefleet.deletion.reference_scan import ReferenceScan
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.deletion.unfinished import UnfinishedDeletions
from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.leases import Lease
from stagefleet.names import Reference, Repository, StageId
from stagefleet.registries import Registries

_MOST_TRIES = 4


class TagDeletions:
    """Deletions of tags of ours, by the attempts of one process; thread-safe."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._kept_scans = KeptScans()
        self._unfinished = UnfinishedDeletions(registries)

    def delete(
        self,
        repository: Repository,
        tag: str,
        attempt: Attempt,
        *,
        check: Callable[[], object] | None = None,
        is_locked: bool = False,
    ) -> ItemResult:
        """Delete one tag: of a stage, of a record, or a custom one; then complete what others left.

        Args:
            attempt: Its `to_delete` returns tags of this repository.
            check: Raises to prevent the deletion; called now, and again before each later request, so that
                its result is never older than `FRESH_SECONDS`.
            is_locked: True if the caller holds the tag's lock already, so that no others can be taken.

        Returns:
            `NOT_THERE` for a tag that was missing, unless the run deleted it with another one, or a
                deletion of it was broken off before.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
            IndexNotDeletedError: An index of the run has it as a member, and could not be deleted.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            LockTimeoutError: It was being copied for too long.
        """
        deletion = _TagDeletion(
            self._registries,
            repository.tagged(tag),
            attempt,
            check=None if check is None else checked(check),
            is_locked=is_locked,
            kept_scans=self._kept_scans,
        )
        item_result = deletion.execute()
        stage_id = StageId.from_tag(tag)
        if stage_id is not None:
            self._registries.remembered.forget(repository, stage_id)
        self._unfinished.finish(repository, attempt)
        return item_result

    def withdraw_rejection(self, repository: Repository, stage_id: StageId, lease: Lease) -> bool:
        """Remove a stage's rejection if it belongs to a deletion alone; return True if there was one."""
        swap = PlaceholderSwap(self._registries.client, repository, str(stage_id), lease=lease)
        return swap.withdraw_rejection()


class _TagDeletion:
    """One attempt at deleting one tag; arguments as of `TagDeletions.delete`."""

    def __init__(
        self,
        registries: Registries,
        reference: Reference,
        attempt: Attempt,
        *,
        check: Check | None,
        is_locked: bool,
        kept_scans: KeptScans,
    ) -> None:
        self._registries = registries
        self._reference = reference
        self._attempt = attempt
        self._check = check
        self._is_locked = is_locked
        self._kept_scans = kept_scans

    def execute(self) -> ItemResult:
        repository, tag = self._reference.repository, self._reference.identifier
        wanted, was_there = frozenset({tag}), False
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                with self._locked(wanted) as lease:
                    locked = wanted if not self._is_locked and tries_left else None
                    was_there = self._delete(lease, locked)
                break
            except LocksMissingError as error:
                wanted |= error.tags
        deleted_tags = DeletedTags(self._registries.shared_state, repository, self._attempt.run_id)
        return ItemResult() if was_there or tag in deleted_tags else NOT_THERE

    @contextmanager
    def _locked(self, tags: frozenset[str]) -> Iterator[Lease]:
        """Lock the deleted stages exclusively; other tags have no locks."""
        stages = sorted(stage_id for tag in tags if (stage_id := StageId.from_tag(tag)) is not None)
        if self._is_locked or not stages:
            yield self._attempt.lease
            return
        with self._registries.stage_locks.lock_exclusively(
            self._reference.repository, *stages, attempt=self._attempt
        ) as stage_lock:
            yield stage_lock

    def _delete(self, lease: Lease, locked: frozenset[str] | None) -> bool:
        """Delete the tag; return True if there was anything to delete."""
        client, attempt = self._registries.client, self._attempt.under(lease)
        try:
            found = detect_deletion_mode(client, self._registries.shared_state, self._reference, lease=lease)
        except NotFoundError:
            found = ProbeResult(DeletionMode.DIGEST)  # it is gone; leftovers of a crashed deletion may exist
        if found.mode is DeletionMode.TAG:
            return self._delete_tag(lease)
        scan = ReferenceScan(self._registries, self._reference.repository, attempt, self._kept_scans)
        deletion = DigestDeletion(
            client, scan, self._reference, found, attempt, locked=locked, check=self._check
        )
        return deletion.execute()

    def _delete_tag(self, lease: Lease) -> bool:
        requests = 0

        def precheck() -> float:
            nonlocal requests
            requests += 1
            return math.inf if self._check is None else self._check() + FRESH_SECONDS

        try:
            was_there = delete_manifest(
                self._registries.client, self._reference, lease=lease, precheck=precheck
            )
        except RegistryError as error:
            if refuses_tags(error):  # it deleted tags in the trial
                forget_deletion_mode(self._registries.shared_state, self._reference.repository)
            raise
        return was_there or requests > 1  # an earlier request may have taken effect, its response lost
