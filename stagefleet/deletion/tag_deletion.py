"""Delete a stage or another tag of ours, and no other tag.

If a registry deletes tags alone, that is one request; else see `manager.digest_deletion`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.deletion.checks import FRESH_SECONDS, Check, DeletedTags, TagsToDelete
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
from stagefleet.deletion.reference_scan import ReferenceScan
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.leases import Lease
from stagefleet.names import Reference, Repository, StageId
from stagefleet.registry import RegistryClient
from stagefleet.shared_state.base import SharedState
from stagefleet.storages.stage_locks import StageLocks

__all__ = ["TagDeletion"]

_MOST_TRIES = 4


class TagDeletion:
    """One attempt at deleting one tag: of a stage, of a record, or a custom one.

    Args:
        client: Client for registries.
        shared_state: The shared state.
        repository: The repository that has the tag.
        run_id: The run's id.
        to_delete: Returns the tags that the run deletes and has not deleted yet.
        lease: Lease to check in waits and before writes.
        stage_locks: Locks on the deleted stages; None if the caller holds the tag's lock already, so that no
            others can be taken.
        memory: What reference scans keep in this process.
    """

    def __init__(
        self,
        client: RegistryClient,
        shared_state: SharedState,
        repository: Repository,
        *,
        run_id: str,
        to_delete: TagsToDelete,
        lease: Lease,
        stage_locks: StageLocks | None = None,
        memory: KeptScans | None = None,
    ) -> None:
        self._client = client
        self._shared_state = shared_state
        self._repository = repository
        self._run = run_id
        self._to_delete = to_delete
        self._lease = lease
        self._stage_locks = stage_locks
        self._memory = memory

    def execute(self, tag: str, *, check: Check | None = None) -> ItemResult:
        """Delete the tag.

        Args:
            tag: The tag.
            check: Raises to prevent the deletion; called again before each request that deletes, so that its
                result is never older than `FRESH_SECONDS`.

        Returns:
            `NOT_THERE` for a tag that was missing, unless the run deleted it with another one, or a deletion
            of it was broken off before.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
            IndexNotDeletedError: An index of the run has it as a member, and could not be deleted.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            LockTimeoutError: It was being copied for too long.
        """
        wanted, was_there = frozenset({tag}), False
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                with self._locked(wanted) as lease:
                    locked = wanted if self._stage_locks is not None and tries_left else None
                    was_there = self._delete(tag, lease, locked, check)
                break
            except LocksMissingError as error:
                wanted |= error.tags
        if was_there or tag in DeletedTags(self._shared_state, self._repository, self._run):
            return ItemResult()
        return NOT_THERE

    @contextmanager
    def _locked(self, tags: frozenset[str]) -> Iterator[Lease]:
        """Lock the deleted stages exclusively; other tags have no locks."""
        stages = sorted(stage_id for tag in tags if (stage_id := StageId.from_tag(tag)) is not None)
        if self._stage_locks is None or not stages:
            yield self._lease
            return
        with self._stage_locks.lock_exclusively(
            self._repository, *stages, run_id=self._run, lease=self._lease
        ) as stage_lock:
            yield stage_lock

    def _delete(self, tag: str, lease: Lease, locked: frozenset[str] | None, check: Check | None) -> bool:
        """Delete a tag; return True if there was anything to delete."""
        reference = self._repository.tagged(tag)
        try:
            found = detect_deletion_mode(self._client, self._shared_state, reference, lease=lease)
        except NotFoundError:
            found = ProbeResult(DeletionMode.DIGEST)  # it is gone; leftovers of a crashed deletion may exist
        if found.mode is DeletionMode.TAG:
            return self._delete_tag(reference, lease, check)
        scan = ReferenceScan(
            self._client,
            self._shared_state,
            self._repository,
            run_id=self._run,
            to_delete=self._to_delete,
            lease=lease,
            memory=self._memory,
        )
        deletion = DigestDeletion(
            self._client,
            scan,
            reference,
            found,
            to_delete=self._to_delete,
            lease=lease,
            locked=locked,
            check=check,
        )
        return deletion.execute()

    def _delete_tag(self, reference: Reference, lease: Lease, check: Check | None) -> bool:
        requests = 0

        def precheck() -> float:
            nonlocal requests
            requests += 1
            return math.inf if check is None else check() + FRESH_SECONDS

        try:
            was_there = delete_manifest(self._client, reference, lease=lease, precheck=precheck)
        except RegistryError as error:
            if refuses_tags(error):  # it deleted tags in the trial
                forget_deletion_mode(self._shared_state, self._repository)
            raise
        return was_there or requests > 1  # an earlier request may have taken effect, its response lost
