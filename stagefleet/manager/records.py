"""Operations on single records and custom tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stagefleet.errors import CustomTagError, NotFoundError, StagefleetError, StageNotFoundError
from stagefleet.locks import MemoryLocks
from stagefleet.manager.delete import TagDeletion
from stagefleet.manager.displacement import Displacement
from stagefleet.manager.freshness import Check, checked
from stagefleet.manager.memory import StageMemory
from stagefleet.manager.produced import Produced
from stagefleet.manager.rejecting import forget_rejections
from stagefleet.manager.stage_locks import StageLocks
from stagefleet.manager.survey_memory import SurveyMemory
from stagefleet.manager.unfinished_deletions import UnfinishedDeletions
from stagefleet.names import Repository, StageId
from stagefleet.records import (
    CustomTag,
    ImageMetadata,
    Record,
    RecordId,
    RecordKind,
    RejectedStage,
    is_placeholder,
)
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.leash import UNLEASHED, Leash
from stagefleet.runs.book import SharedBook
from stagefleet.storages.records import RecordStore, StoredRecord, Written
from stagefleet.storages.rejections import Rejections

__all__ = ["RecordManager", "metadata_ids"]


class RecordManager:
    """List, read, write and delete records; thread-safe.

    Args:
        client: Client for registries.
        book: The run's shared book.
        turns: Locks on stages; those of this process alone if None.
        memory: The fleet's memory of stages; none if None.
        surveys: Memory of surveys in this process.
    """

    def __init__(
        self,
        client: RegistryClient,
        book: SharedBook,
        turns: StageLocks | None = None,
        *,
        memory: StageMemory | None = None,
        surveys: SurveyMemory | None = None,
    ) -> None:
        self._client = client
        self._book = book
        self._turns = StageLocks(MemoryLocks()) if turns is None else turns
        self._memory = StageMemory() if memory is None else memory
        self._surveys = SurveyMemory() if surveys is None else surveys
        self._unfinished = UnfinishedDeletions(client, book, self._turns, self._memory)

    def ids(
        self,
        repository: Repository,
        kind: RecordKind | None = None,
        *,
        on_unknown: Callable[[str], None] | None = None,
    ) -> Iterator[RecordId]:
        """List the records of a repository; see `RecordStore.ids`."""
        return self._store(repository).ids(kind, on_unknown=on_unknown)

    def read(self, repository: Repository, record_id: RecordId) -> StoredRecord | None:
        """Read a record, None if it does not exist.

        Raises:
            BrokenRecordError: It lacks a label, or is no record.
        """
        return self._store(repository).read(record_id)

    def write(self, repository: Repository, project: str, record: Record, *, force: bool = False) -> Written:
        """Write a record; see `RecordStore.write`. For a custom tag this writes the record alone."""
        written = RecordStore(self._client, repository, project).write(record, force=force)
        if isinstance(record, RejectedStage):
            forget_rejections(self._book, repository)
            self._memory.forget(repository, record.stage_id)
        return written

    def delete(
        self,
        repository: Repository,
        record_id: RecordId,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash = UNLEASHED,
    ) -> Produced:
        """Delete a record; a missing one counts as success.

        Args:
            repository: The repository that has it.
            record_id: The record.
            run: The run's id.
            asked: Returns the tags that the run deletes and has not deleted yet; called rarely.
            leash: Lease to check in waits and before writes.

        Raises:
            BrokenRecordError: The image under its tag is no record; it is not deleted.
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
        """
        check = checked(lambda: self.read(repository, record_id))
        self._delete_tag(repository, record_id.tag, run=run, asked=asked, leash=leash, check=check)
        if record_id.kind is RecordKind.REJECTED_STAGE:
            forget_rejections(self._book, repository)
            named = StageId.parse(record_id.name)
            self._memory.rejections.forget(str(repository), named)
            self._memory.add(repository, named)  # it may be listed again, if it exists
        return Produced()

    def delete_image_metadata(
        self,
        repository: Repository,
        candidates: Iterable[RecordId],
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash = UNLEASHED,
    ) -> Produced:
        """Delete the first of some records that exists; other arguments as `delete`.

        Args:
            repository: The repository that has them.
            candidates: The records, from `metadata_ids`.
            run: The run's id.
            asked: As in `delete`.
            leash: As in `delete`.
        """
        named = list(candidates)
        there = next((found for found in named if self.read(repository, found) is not None), named[0])
        return self.delete(repository, there, run=run, asked=asked, leash=leash)

    def delete_rejected_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash = UNLEASHED,
        unfinished: bool = False,
    ) -> Produced:
        """Delete a rejected stage and then its record, so that nobody uses the stage meanwhile.

        Args:
            repository: The repository that has it.
            stage_id: The stage.
            run: The run's id.
            asked: As in `delete`.
            leash: As in `delete`.
            unfinished: True to delete a stage whose rejection is a deletion's leftover, too; else only that
                rejection.

        Raises:
            StageNotFoundError: The stage is not rejected, and so stays.
            LockTimeoutError: It was being copied for too long.
            StagefleetError: As in `delete`.
        """
        record_id = RecordId.of(RecordKind.REJECTED_STAGE, str(stage_id))

        def check() -> None:
            if self.read(repository, record_id) is None:
                raise StageNotFoundError(f"{repository}: the stage {stage_id} is rejected no more: it stays")

        with self._turns.alone(repository, stage_id, run=run, leash=leash) as turn:
            is_there = self.read(repository, record_id) is not None
            if is_there and not unfinished and not Rejections(self._client, repository).stands(stage_id):
                Displacement(self._client, repository, str(stage_id), leash=turn).withdraw()
            elif is_there:
                self._delete_tag(
                    repository,
                    str(stage_id),
                    run=run,
                    asked=asked,
                    leash=turn,
                    check=checked(check),
                    has_turn=True,
                )
                produced = self.delete(repository, record_id, run=run, asked=asked, leash=turn)
                self._memory.forget(repository, stage_id)
                return produced
            if self._manifest(repository, str(stage_id)) is None:
                return Produced()
        raise StageNotFoundError(f"{repository} has the stage {stage_id}, but not rejected: it stays")

    # Custom tags: in the final storage of a project that has one, their records always in the primary

    def add_custom_tag(
        self, repository: Repository, project: str, custom: CustomTag, *, final: Repository | None = None
    ) -> Written:
        """Add a custom tag to a stage: first the record, so that no tag lacks one, then the tag.

        Args:
            repository: The repository for the record: the primary storage.
            project: The project that it belongs to.
            custom: The tag, and its stage.
            final: The repository for the tag, if it is another one.

        Raises:
            StageNotFoundError: The tag's repository does not have the stage.
        """
        where = final or repository
        stage = self._manifest(where, str(custom.stage_id))
        if stage is None or Rejections(self._client, where).stands(custom.stage_id):
            advice = "" if final is None else ": publish it first"
            raise StageNotFoundError(f"{where} has no stage {custom.stage_id} to be tagged{advice}")
        with _saying(f"the record of the tag {custom.name} cannot be written"):
            written = self.write(repository, project, custom)
        with _saying(f"the tag {custom.name} has its record, but cannot be set"):
            self._client.put_manifest(where.tagged(custom.name), stage)
        return written

    def check_custom_tag(
        self, repository: Repository, tag: str, stage_id: StageId, *, final: Repository | None = None
    ) -> None:
        """Check that a custom tag names the image of its stage; arguments as in `add_custom_tag`.

        Raises:
            CustomTagError: It names another image.
        """
        where = final or repository
        there = self._manifest(where, tag)
        if there is None:
            advice = "" if final else ", or name the project whose final storage has it"
            raise CustomTagError(f"{where} has no tag {tag}: add it again{advice}")
        stage = self._manifest(where, str(stage_id))
        if stage is None or stage.digest != there.digest:
            what = "which is gone" if stage is None else "but another image"
            raise CustomTagError(f"{where}:{tag} is not the stage {stage_id}, {what}: add it again")

    def delete_custom_tag(
        self,
        repository: Repository,
        record_id: RecordId,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        final: Repository | None = None,
        leash: Leash = UNLEASHED,
    ) -> Produced:
        """Delete a custom tag, then its record; missing ones count as success.

        Args:
            repository: The repository of the record: the primary storage.
            record_id: The record.
            run: The run's id.
            asked: As in `delete`.
            final: The repository of the tag, if it is another one.
            leash: As in `delete`.

        Raises:
            BrokenRecordError: The image under the record's tag is no record; neither is deleted.
            StagefleetError: As in `delete`; names the one that failed.
        """
        found = self.read(repository, record_id)
        if found is not None:
            assert isinstance(found.record, CustomTag)
            tag, where = found.record.name, final or repository

            def check() -> None:
                again = self.read(repository, record_id)
                if again is None or again.record != found.record:
                    raise CustomTagError(f"{where}:{tag} is no custom tag any more: it stays")

            with _saying(f"the tag {tag if final is None else where.tagged(tag)} cannot be deleted"):
                asked_there = asked if final is None else tuple
                self._delete_tag(where, tag, run=run, asked=asked_there, leash=leash, check=checked(check))
        with _saying(f"the tag is deleted, but its record {record_id.tag} cannot be"):
            return self.delete(repository, record_id, run=run, asked=asked, leash=leash)

    def _delete_tag(
        self,
        repository: Repository,
        tag: str,
        *,
        run: str,
        asked: Callable[[], Iterable[str]],
        leash: Leash,
        check: Check,
        has_turn: bool = False,
    ) -> None:
        deletion = TagDeletion(
            self._client,
            self._book,
            repository,
            run=run,
            asked=asked,
            leash=leash,
            turns=None if has_turn else self._turns,
            memory=self._surveys,
        )
        deletion.carry_out(tag, check=check)
        self._unfinished.finish(repository, run=run, leash=leash)

    def _manifest(self, repository: Repository, tag: str) -> Manifest | None:
        try:
            manifest = self._client.fetch_manifest(repository.tagged(tag))
        except NotFoundError:
            return None
        return None if is_placeholder(manifest.annotations) else manifest

    def _store(self, repository: Repository) -> RecordStore:
        return RecordStore(self._client, repository, repository.name)


def metadata_ids(image_name_or_hash: str, commit: str, stage_id: StageId) -> list[RecordId]:
    """Return the records that may be meant: of an image with this name, else with this hash.

    Raises:
        InvalidNameError: The commit is malformed, so that no such record can exist.
    """
    by_name = ImageMetadata.of_image(image_name_or_hash, commit, stage_id).id
    try:
        by_hash = ImageMetadata(image_name_or_hash, commit, stage_id).id
    except ValueError:
        return [by_name]
    return [by_name, by_hash]


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Prefix an error's message with the operation that failed; keep the error otherwise."""
    try:
        yield
    except StagefleetError as error:
        error.args = (f"{what}: {error}", *error.args[1:])
        raise
