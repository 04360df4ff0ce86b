"""Delete a stage or another tag of ours, and no other tag.

If a registry deletes tags alone, that is one request; else see `DigestDeletion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.deletion import mode
from stagefleet.deletion.checks import FRESH_SECONDS, Check, DeletedTags, checked
from stagefleet.deletion.digest_deletion import DigestDeletion, LocksMissingError
from stagefleet.deletion.placeholder_swap import PlaceholderSwap
from stagefleet.deletion.reference_scan import ReferenceScan, placeholders_seen
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.errors import ItemCancelledError, NotFoundError, RedisUnreachableError, RegistryError
from stagefleet.fleet_registries import Registries
from stagefleet.leases import Lease
from stagefleet.logs import errors_as_warnings
from stagefleet.names import Reference, Repository, StageId
from stagefleet.records.image import rejected_stage
from stagefleet.registry.http.waits import pause
from stagefleet.shared_state.base import RUN_TTL_SECONDS

_MOST_TRIES = 4


class TagDeletions:
    """Deletions of tags of ours, by the attempts of one process; thread-safe."""

    def __init__(self, registries: Registries) -> None:
        self.registries = registries
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

        The result is `NOT_THERE` for a tag that was missing, unless the run deleted it with another one, or a
        deletion of it was broken off before.

        Args:
            attempt: Its `to_delete` returns tags of this repository.
            check: Raises to prevent the deletion; called now, and again before each later request, so that
                its result is never older than `FRESH_SECONDS`.
            is_locked: True if the caller holds the tag's lock already, so that no others can be taken.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: A tag that stays shares its digest, and the registry cannot separate them.
            IndexNotDeletedError: An index of the run has it as a member, and could not be deleted.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            LockTimeoutError: It was being copied for too long.
        """
        own_check = None if check is None else checked(check)
        reference = repository.tagged(tag)
        deletion = _TagDeletion(self.registries, reference, attempt, own_check, is_locked, self._kept_scans)
        item_result = deletion.execute()
        stage_id = StageId.from_tag(tag)
        if stage_id is not None:
            self.registries.remembered.forget(repository, stage_id)
        self._unfinished.finish(repository, attempt)
        return item_result

    def scan(self, repository: Repository, attempt: Attempt) -> ReferenceScan:
        """Create a scan for the users of digests in a repository."""
        return ReferenceScan(self.registries, repository, attempt, self._kept_scans)

    def withdraw_rejection(self, repository: Repository, stage_id: StageId, lease: Lease) -> bool:
        """Remove a stage's rejection if it belongs to a deletion alone; return True if there was one."""
        swap = PlaceholderSwap(self.registries.client, repository, str(stage_id), lease=lease)
        return swap.withdraw_rejection()


@dataclass(frozen=True, slots=True)
class _TagDeletion:
    """One attempt at deleting one tag; arguments as of `TagDeletions.delete`."""

    registries: Registries
    reference: Reference
    attempt: Attempt
    check: Check | None
    is_locked: bool
    kept_scans: KeptScans

    def execute(self) -> ItemResult:
        repository, tag = self.reference.repository, self.reference.identifier
        wanted, was_there = frozenset({tag}), False
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                with self._locked(wanted) as lease:
                    locked = wanted if not self.is_locked and tries_left else None
                    was_there = self._delete(lease, locked)
                break
            except LocksMissingError as error:
                wanted |= error.tags
        deleted_tags = DeletedTags(self.registries.shared_state, repository, self.attempt.run_id)
        return ItemResult() if was_there or tag in deleted_tags else NOT_THERE

    @contextmanager
    def _locked(self, tags: frozenset[str]) -> Iterator[Lease]:
        """Lock the deleted stages exclusively; other tags have no locks."""
        stages = sorted(stage_id for tag in tags if (stage_id := StageId.from_tag(tag)) is not None)
        if self.is_locked or not stages:
            yield self.attempt.lease
            return
        with self.registries.stage_locks.lock_exclusively(
            self.reference.repository, *stages, attempt=self.attempt
        ) as stage_lock:
            yield stage_lock

    def _delete(self, lease: Lease, locked: frozenset[str] | None) -> bool:
        """Delete the tag; return True if there was anything to delete."""
        client, attempt = self.registries.client, self.attempt.under(lease)
        try:
            found = mode.detect_deletion_mode(
                client, self.registries.shared_state, self.reference, lease=lease
            )
        except NotFoundError:
            # It is gone; leftovers of a crashed deletion may exist.
            found = mode.ProbeResult(mode.DeletionMode.DIGEST)
        if found.mode is mode.DeletionMode.TAG:
            return self._delete_tag(lease)
        scan = ReferenceScan(self.registries, self.reference.repository, attempt, self.kept_scans)
        deletion = DigestDeletion(client, scan, self.reference, found, attempt, locked, self.check)
        return deletion.execute()

    def _delete_tag(self, lease: Lease) -> bool:
        requests = 0

        def precheck() -> float:
            nonlocal requests
            requests += 1
            return math.inf if self.check is None else self.check() + FRESH_SECONDS

        try:
            was_there = mode.delete_manifest(
                self.registries.client, self.reference, lease=lease, precheck=precheck
            )
        except RegistryError as error:
            if mode.refuses_tags(error):  # it deleted tags in the probe
                mode.forget_deletion_mode(self.registries.shared_state, self.reference.repository)
            raise
        return was_there or requests > 1  # an earlier request may have taken effect, its response lost


# Completion or withdrawal of deletions that were killed.
#
# A tag that was moved aside leads to a placeholder, and meanwhile a rejection exists. The next deletion in
# the repository completes such leftovers: it deletes the placeholder with its tag, or, if the stage exists
# after all, the rejection.

SECOND_LOOK_SECONDS = 3.0
"""Pause between the reads of a rejection whose stage exists: a deletion under way goes on meanwhile."""

_WAIT_SECONDS = 60


class UnfinishedDeletions:
    """Unfinished deletions by others, in repositories; thread-safe."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._client = registries.client
        self._shared_state = registries.shared_state

    def finish(self, repository: Repository, attempt: Attempt) -> None:
        """Complete the unfinished deletions in a repository, once per run; log a warning for failures.

        Call it after the item's own work: a cancelled run or an unreachable Redis ends only this part.
        """
        with suppress(ItemCancelledError, RedisUnreachableError):
            self._shared_state.get_or_compute(
                attempt.run_id,
                f"unfinished {repository}",
                lambda: self._finish_all(repository, attempt),
                ttl_seconds=RUN_TTL_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                lease=attempt.lease,
            )

    def _finish_all(self, repository: Repository, attempt: Attempt) -> bool:
        with errors_as_warnings(f"deletions that were broken off may be left in {repository}"):
            if mode.may_use_placeholders(self._shared_state, repository):
                self._look_for_them(repository, attempt)
        return True

    def _look_for_them(self, repository: Repository, attempt: Attempt) -> None:
        rejections = self._registries.rejections(repository)
        named = filter(None, map(rejected_stage, self._registries.tags(repository)))
        found = rejections.of_deletions(list(named))
        resume = partial(self._resume, repository, attempt=attempt)
        dead = {stage_id for stage_id, digest in found.items() if digest is None}
        in_place = [stage_id for stage_id in found.keys() - dead if not resume(stage_id)]
        for stage_id in dead:
            resume(stage_id, is_left=True, is_rejection_dead=True)
        if in_place:
            pause(SECOND_LOOK_SECONDS, attempt.lease)
            again = rejections.of_deletions(in_place)
            for stage_id in in_place:
                if again.get(stage_id) == found[stage_id]:
                    resume(stage_id, is_left=True)
        for tag in placeholders_seen(self._shared_state, attempt.run_id, repository):
            moved = StageId.from_tag(tag)
            if moved is None:
                with errors_as_warnings(f"{repository}:{tag} is moved aside, and not deleted"):
                    PlaceholderSwap(self._client, repository, tag, lease=attempt.lease).resume(is_left=False)
            elif moved not in found:  # its rejection was withdrawn
                resume(moved)
        if found:
            self._registries.forget_rejections(repository)

    def _resume(self, repository: Repository, stage_id: StageId, *, attempt: Attempt, **state: bool) -> bool:
        """Continue one unfinished deletion; return True if nothing of it is left."""
        is_done = True
        stage_locks = self._registries.stage_locks
        with stage_locks.try_lock_exclusively(repository, stage_id, attempt) as stage_lock:
            if stage_lock is None:
                return True  # another worker is at work: the stage is being deleted, not left over
            with errors_as_warnings(f"the deletion of {repository}:{stage_id} that was broken off stays so"):
                swap = PlaceholderSwap(self._client, repository, str(stage_id), lease=stage_lock)
                DeletedTags(self._shared_state, repository, attempt.run_id).add([str(stage_id)])
                is_done = swap.resume(**{"is_left": False, **state})
                self._registries.remembered.forget(repository, stage_id)
        return is_done
