"""Operations on single records and custom tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.deletion.checks import Check, checked
from stagefleet.deletion.placeholder_swap import PlaceholderSwap
from stagefleet.deletion.tag_deletion import TagDeletion
from stagefleet.deletion.tag_tables import KeptScans
from stagefleet.deletion.unfinished import UnfinishedDeletions
from stagefleet.errors import CustomTagError, NotFoundError, StagefleetError, StageNotFoundError
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.locks import MemoryLocks
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
from stagefleet.shared_state.base import SharedState
from stagefleet.storages.rejections import Rejections, forget_rejections
from stagefleet.storages.remembered_stages import RememberedStages
from stagefleet.storages.repository_records import RecordStore, StoredRecord, WriteResult
from stagefleet.storages.stage_locks import StageLocks

__all__ = ["RecordManager", "metadata_ids"]


class RecordManager:
    """List, read, write and delete records; thread-safe.

    Args:
        client: Client for registries.
        shared_state: The shared state.
        stage_locks: Locks on stages; those of this process alone if None.
        memory: The fleet's memory of stages; none if None.
        kept_scans: What reference scans keep in this process.
    """

    def __init__(
        self,
        client: RegistryClient,
        shared_state: SharedState,
        stage_locks: StageLocks | None = None,
        *,
        memory: RememberedStages | None = None,
        kept_scans: KeptScans | None = None,
    ) -> None:
        self._client = client
        self._shared_state = shared_state
        self._stage_locks = StageLocks(MemoryLocks()) if stage_locks is None else stage_locks
        self._remembered = RememberedStages() if memory is None else memory
        self._kept_scans = KeptScans() if kept_scans is None else kept_scans
        self._unfinished = UnfinishedDeletions(client, shared_state, self._stage_locks, self._remembered)

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

    def write(
        self, repository: Repository, project: str, record: Record, *, force: bool = False
    ) -> WriteResult:
        """Write a record; see `RecordStore.write`. For a custom tag this writes the record alone."""
        written = RecordStore(self._client, repository, project).write(record, force=force)
        if isinstance(record, RejectedStage):
            forget_rejections(self._shared_state, repository)
            self._remembered.forget(repository, record.stage_id)
        return written

    def delete(
        self,
        repository: Repository,
        record_id: RecordId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Delete a record; `NOT_THERE` for a missing one.

        Args:
            repository: The repository that has it.
            record_id: The record.
            run_id: The run's id.
            to_delete: Returns the tags that the run deletes and has not deleted yet; called rarely.
            lease: Lease to check in waits and before writes.

        Raises:
            BrokenRecordError: The image under its tag is no record; it is not deleted.
            DeletionDisabledError: Deletion is switched off in the registry.
            SharedDigestError: It shares its digest with a tag that stays, and the registry cannot separate
                them.
        """
        check = checked(lambda: self.read(repository, record_id))
        item_result = self._delete_tag(
            repository, record_id.tag, run_id=run_id, to_delete=to_delete, lease=lease, check=check
        )
        if record_id.kind is RecordKind.REJECTED_STAGE:
            forget_rejections(self._shared_state, repository)
            named = StageId.parse(record_id.name)
            self._remembered.rejections.forget(str(repository), named)
            self._remembered.add(repository, named)  # it may be listed again, if it exists
        return item_result

    def delete_image_metadata(
        self,
        repository: Repository,
        candidates: Iterable[RecordId],
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Delete the first of some records that exists; other arguments as `delete`.

        Args:
            repository: The repository that has them.
            candidates: The records, from `metadata_ids`.
            run_id: The run's id.
            to_delete: As in `delete`.
            lease: As in `delete`.
        """
        named = list(candidates)
        there = next((found for found in named if self.read(repository, found) is not None), named[0])
        return self.delete(repository, there, run_id=run_id, to_delete=to_delete, lease=lease)

    def delete_rejected_stage(
        self,
        repository: Repository,
        stage_id: StageId,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease = NO_LEASE,
        unfinished: bool = False,
    ) -> ItemResult:
        """Delete a rejected stage and then its record, so that nobody uses the stage meanwhile.

        Args:
            repository: The repository that has it.
            stage_id: The stage.
            run_id: The run's id.
            to_delete: As in `delete`.
            lease: As in `delete`.
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

        with self._stage_locks.lock_exclusively(
            repository, stage_id, run_id=run_id, lease=lease
        ) as stage_lock:
            is_there = self.read(repository, record_id) is not None
            if is_there and not unfinished and not Rejections(self._client, repository).stands(stage_id):
                PlaceholderSwap(
                    self._client, repository, str(stage_id), lease=stage_lock
                ).withdraw_rejection()
            elif is_there:
                self._delete_tag(
                    repository,
                    str(stage_id),
                    run_id=run_id,
                    to_delete=to_delete,
                    lease=stage_lock,
                    check=checked(check),
                    is_locked=True,
                )
                self.delete(repository, record_id, run_id=run_id, to_delete=to_delete, lease=stage_lock)
                self._remembered.forget(repository, stage_id)
                return ItemResult()
            if self._manifest(repository, str(stage_id)) is None:
                return ItemResult() if is_there else NOT_THERE
        raise StageNotFoundError(f"{repository} has the stage {stage_id}, but not rejected: it stays")

    # Custom tags: in the final storage of a project that has one, their records always in the primary

    def add_custom_tag(
        self, repository: Repository, project: str, custom: CustomTag, *, final: Repository | None = None
    ) -> WriteResult:
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
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        final: Repository | None = None,
        lease: Lease = NO_LEASE,
    ) -> ItemResult:
        """Delete a custom tag, then its record; `NOT_THERE` if both are missing.

        Args:
            repository: The repository of the record: the primary storage.
            record_id: The record.
            run_id: The run's id.
            to_delete: As in `delete`.
            final: The repository of the tag, if it is another one.
            lease: As in `delete`.

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
                asked_there = to_delete if final is None else tuple
                self._delete_tag(
                    where, tag, run_id=run_id, to_delete=asked_there, lease=lease, check=checked(check)
                )
        with _saying(f"the tag is deleted, but its record {record_id.tag} cannot be"):
            item_result = self.delete(repository, record_id, run_id=run_id, to_delete=to_delete, lease=lease)
        return item_result if found is None else ItemResult()

    def _delete_tag(
        self,
        repository: Repository,
        tag: str,
        *,
        run_id: str,
        to_delete: Callable[[], Iterable[str]],
        lease: Lease,
        check: Check,
        is_locked: bool = False,
    ) -> ItemResult:
        deletion = TagDeletion(
            self._client,
            self._shared_state,
            repository,
            run_id=run_id,
            to_delete=to_delete,
            lease=lease,
            stage_locks=None if is_locked else self._stage_locks,
            memory=self._kept_scans,
        )
        item_result = deletion.execute(tag, check=check)
        self._unfinished.finish(repository, run_id=run_id, lease=lease)
        return item_result

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
