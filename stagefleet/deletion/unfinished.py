"""Completion or withdrawal of deletions that were killed.

A tag that was moved aside leads to a placeholder, and meanwhile a rejection exists. The next deletion in the
repository completes such leftovers: it deletes the placeholder with its tag, or, if the stage exists after
all, the rejection.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from stagefleet.attempt import Attempt
from stagefleet.best_effort import errors_as_warnings
from stagefleet.deletion.checks import DeletedTags
from stagefleet.deletion.mode import may_use_placeholders
from stagefleet.deletion.placeholder_swap import PlaceholderSwap
from stagefleet.deletion.reference_scan import placeholders_seen
from stagefleet.errors import ItemCancelledError, RedisUnreachableError
from stagefleet.names import Repository, StageId
from stagefleet.records.image import rejected_stage
from stagefleet.registries import Registries
from stagefleet.registry.http.waits import pause

SECOND_LOOK_SECONDS = 3.0
"""Pause between the reads of a rejection whose stage exists: a deletion under way goes on meanwhile."""

_RUN_SECONDS = 24 * 3600
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
                ttl_seconds=_RUN_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                lease=attempt.lease,
            )

    def _finish_all(self, repository: Repository, attempt: Attempt) -> bool:
        with errors_as_warnings(f"deletions that were broken off may be left in {repository}"):
            if may_use_placeholders(self._shared_state, repository):
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
