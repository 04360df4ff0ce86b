"""Completion or withdrawal of deletions that were killed.

A tag that was moved aside leads to a placeholder, and meanwhile a rejection exists. The next deletion in the
repository completes such leftovers: it deletes the placeholder with its tag, or, if the stage exists after
all, the rejection.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from stagefleet.errors import ItemCancelledError, NotFoundError, RedisUnreachableError
from stagefleet.manager.deletion_way import may_move_aside
from stagefleet.manager.displacement import Displacement
from stagefleet.manager.memory import StageMemory
from stagefleet.manager.mishaps import warned
from stagefleet.manager.rejecting import forget_rejections
from stagefleet.manager.stage_locks import StageLocks
from stagefleet.manager.survey import placeholders_seen
from stagefleet.names import Repository, StageId
from stagefleet.records import rejected_stage
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.registry.pauses import pause
from stagefleet.runs.book import SharedBook
from stagefleet.storages.rejections import Rejections

__all__ = ["UnfinishedDeletions"]

SECOND_LOOK_SECONDS = 3.0
"""Pause between the reads of a rejection whose stage exists: a deletion under way goes on meanwhile."""

_RUN_SECONDS = 24 * 3600
_WAIT_SECONDS = 60


class UnfinishedDeletions:
    """Unfinished deletions by others, in repositories; thread-safe.

    Args:
        client: Client for registries.
        book: Lets one worker of a run do this.
        turns: Locks on stages: a locked stage is being deleted, not left over.
        memory: The fleet's memory of rejections.
    """

    def __init__(
        self, client: RegistryClient, book: SharedBook, turns: StageLocks, memory: StageMemory
    ) -> None:
        self._client = client
        self._book = book
        self._turns = turns
        self._memory = memory

    def finish(self, repository: Repository, *, run: str, leash: Leash) -> None:
        """Complete the unfinished deletions in a repository, once per run; log a warning for failures.

        Call it after the item's own work: a cancelled run or an unreachable Redis ends only this part.
        """
        with suppress(ItemCancelledError, RedisUnreachableError):
            self._book.once(
                run,
                f"unfinished {repository}",
                lambda: self._finish_all(repository, run, leash),
                ttl_seconds=_RUN_SECONDS,
                wait_seconds=_WAIT_SECONDS,
                leash=leash,
            )

    def _finish_all(self, repository: Repository, run: str, leash: Leash) -> bool:
        with warned(f"deletions that were broken off may be left in {repository}"):
            if may_move_aside(self._book, repository):
                self._look_for_them(repository, run, leash)
        return True

    def _look_for_them(self, repository: Repository, run: str, leash: Leash) -> None:
        rejections = Rejections(self._client, repository, self._memory.rejections)
        found = rejections.of_deletions(self._named(repository))
        resume = partial(self._resume, repository, run=run, leash=leash)
        dead = {stage_id for stage_id, digest in found.items() if digest is None}
        in_place = [stage_id for stage_id in found.keys() - dead if not resume(stage_id)]
        for stage_id in dead:
            resume(stage_id, is_left=True, is_rejection_dead=True)
        if in_place:
            pause(SECOND_LOOK_SECONDS, leash)
            again = rejections.of_deletions(in_place)
            for stage_id in in_place:
                if again.get(stage_id) == found[stage_id]:
                    resume(stage_id, is_left=True)
        for tag in placeholders_seen(self._book, run, repository):
            named = StageId.from_tag(tag)
            if named is None:
                with warned(f"{repository}:{tag} is moved aside, and not deleted"):
                    Displacement(self._client, repository, tag, leash=leash).resume(is_left=False)
            elif named not in found:  # its rejection was withdrawn
                resume(named)
        if found:
            forget_rejections(self._book, repository)

    def _resume(
        self, repository: Repository, stage_id: StageId, *, run: str, leash: Leash, **state: bool
    ) -> bool:
        """Continue one unfinished deletion; return True if nothing of it is left.

        Args:
            repository: The repository.
            stage_id: The stage.
            run: The run's id.
            leash: Lease to check in waits and before writes.
            **state: As for `Displacement.resume`.
        """
        is_done = True
        with self._turns.if_free(repository, stage_id, run=run, leash=leash) as turn:
            if turn is None:
                return True  # another worker is at work
            with warned(f"the deletion of {repository}:{stage_id} that was broken off stays so"):
                displacement = Displacement(self._client, repository, str(stage_id), leash=turn)
                is_done = displacement.resume(**{"is_left": False, **state})
                self._memory.forget(repository, stage_id)
        return is_done

    def _named(self, repository: Repository) -> list[StageId]:
        try:
            return list(filter(None, map(rejected_stage, self._client.tags(repository))))
        except NotFoundError:
            return []
