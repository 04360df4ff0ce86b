"""Delete a stage or another tag of ours, and no other tag.

If a registry deletes tags alone, that is one request; else see `manager.digest_deletion`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.manager.deletion_permit import LocksLackingError
from stagefleet.manager.deletion_way import (
    DeletionWay,
    Trial,
    delete_manifest,
    find_way,
    forget_way,
    refuses_tags,
)
from stagefleet.manager.digest_deletion import DigestDeletion
from stagefleet.manager.freshness import FRESH_SECONDS, Check
from stagefleet.manager.produced import Produced
from stagefleet.manager.run_items import Asked
from stagefleet.manager.stage_locks import StageLocks
from stagefleet.manager.survey import Survey
from stagefleet.manager.survey_memory import SurveyMemory
from stagefleet.names import Reference, Repository, StageId
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import SharedBook

__all__ = ["TagDeletion"]

_MOST_TRIES = 4


class TagDeletion:
    """One attempt at deleting one tag: of a stage, of a record, or a custom one.

    Args:
        client: Client for registries.
        book: The run's shared book.
        repository: The repository that has the tag.
        run: The run's id.
        asked: Returns the tags that the run deletes and has not deleted yet.
        leash: Lease to check in waits and before writes.
        turns: Locks on the deleted stages; None if the caller holds the tag's lock already, so that no others
            can be taken.
        memory: Memory of surveys in this process.
    """

    def __init__(
        self,
        client: RegistryClient,
        book: SharedBook,
        repository: Repository,
        *,
        run: str,
        asked: Asked,
        leash: Leash,
        turns: StageLocks | None = None,
        memory: SurveyMemory | None = None,
    ) -> None:
        self._client = client
        self._book = book
        self._repository = repository
        self._run = run
        self._asked = asked
        self._leash = leash
        self._turns = turns
        self._memory = memory

    def carry_out(self, tag: str, *, check: Check | None = None) -> Produced:
        """Delete the tag; a missing one counts as success.

        Args:
            tag: The tag.
            check: Raises to prevent the deletion; called again before each request that deletes, so that its
                result is never older than `FRESH_SECONDS`.

        Raises:
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
            IndexStaysError: An index of the run has it as a member, and could not be deleted.
            ItemPostponedError: An index of the run has it as a member, and has to be deleted first.
            LockTimeoutError: It was being copied for too long.
        """
        wanted = frozenset({tag})
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                with self._locked(wanted) as leash:
                    locked = wanted if self._turns is not None and tries_left else None
                    self._delete(tag, leash, locked, check)
                break
            except LocksLackingError as error:
                wanted |= error.tags
        return Produced()

    @contextmanager
    def _locked(self, tags: frozenset[str]) -> Iterator[Leash]:
        """Lock the deleted stages exclusively; other tags have no locks."""
        stages = sorted(stage_id for tag in tags if (stage_id := StageId.from_tag(tag)) is not None)
        if self._turns is None or not stages:
            yield self._leash
            return
        with self._turns.alone(self._repository, *stages, run=self._run, leash=self._leash) as turn:
            yield turn

    def _delete(self, tag: str, leash: Leash, locked: frozenset[str] | None, check: Check | None) -> None:
        reference = self._repository.tagged(tag)
        try:
            found = find_way(self._client, self._book, reference, leash=leash)
        except NotFoundError:
            found = Trial(DeletionWay.DIGEST)  # it is gone; leftovers of a crashed deletion may exist
        if found.way is DeletionWay.TAG:
            self._delete_tag(reference, leash, check)
            return
        survey = Survey(
            self._client,
            self._book,
            self._repository,
            run=self._run,
            asked=self._asked,
            leash=leash,
            memory=self._memory,
        )
        deletion = DigestDeletion(
            self._client,
            survey,
            reference,
            found,
            asked=self._asked,
            leash=leash,
            locked=locked,
            check=check,
        )
        deletion.carry_out()

    def _delete_tag(self, reference: Reference, leash: Leash, check: Check | None) -> None:
        look = None if check is None else lambda: check() + FRESH_SECONDS
        try:
            delete_manifest(self._client, reference, leash=leash, look=look)
        except RegistryError as error:
            if refuses_tags(error):  # it deleted tags in the trial
                forget_way(self._book, self._repository)
            raise
