"""Tasks that read or delete one record or custom tag; the operation names its storage.

In this host's engine there is import metadata only: other kinds are never found, and need no deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from stagefleet.attempt import NOT_THERE, Attempt, ItemResult
from stagefleet.errors import CustomTagError, StageNotFoundError
from stagefleet.names import StageId
from stagefleet.operations import records as operations
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag, ImageMetadata
from stagefleet.storages.base import RecordStore
from stagefleet.storages.repository_records import naming_failure
from stagefleet.storages.storages import Storages
from tasks.delete import counted_as_deleted, tags_to_delete


def rm_image_metadata(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the metadata `attempt.item`, `COMMIT_STAGEID`, of an image by name or hash."""
    image = attempt.parsed(operations.DeleteImageMetadataOperation).image

    def candidates(item: str) -> list[RecordId]:
        """Return the records that may be meant: of an image with this name, else with this hash."""
        commit, _, stage = item.partition("_")
        stage_id = StageId.parse(stage)
        found = [ImageMetadata.of_image(image, commit, stage_id).id]
        with suppress(ValueError):
            found.append(ImageMetadata(image, commit, stage_id).id)
        return found

    def certain(item: str) -> list[str]:
        """Return no tags if two may be meant: only a read tells which."""
        found = candidates(item)
        return [found[0].tag] if len(found) == 1 else []

    records, named = _records(storages, attempt), candidates(attempt.item)
    there = next((found for found in named if records.read(found) is not None), named[0])
    return _delete(storages, attempt, there, certain)


def rm_managed_image(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the record of the managed image `attempt.item`."""
    return _delete_record(storages, attempt, RecordKind.MANAGED_IMAGE)


def rm_import_metadata(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the import metadata `attempt.item`."""
    return _delete_record(storages, attempt, RecordKind.IMPORT_METADATA)


def rm_record(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the record `attempt.item`, of any kind."""
    return _delete_record(storages, attempt, attempt.parsed(operations.DeleteRecordOperation).kind)


def get_import_metadata(storages: Storages, attempt: Attempt) -> ItemResult:
    """Read the import metadata `attempt.item`; skipped if it is gone."""
    return _read(storages, attempt, RecordKind.IMPORT_METADATA)


def get_stage_custom_tag_metadata(storages: Storages, attempt: Attempt) -> ItemResult:
    """Read the record of the custom tag `attempt.item`, a tag or its slug; skipped if it is gone."""
    return _read(storages, attempt, RecordKind.CUSTOM_TAG)


def delete_stage_custom_tag(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the custom tag `attempt.item`, a tag or its slug, then its record."""
    record_id = RecordId.of(RecordKind.CUSTOM_TAG, attempt.item)
    operation = attempt.parsed(operations.DeleteCustomTagOperation)
    address, final = operation.repository, operation.final

    # Only its record tells which tag an item means, and if it is ours: so no tags are returned.
    def record_tags(item: str) -> tuple[str]:
        return (RecordId.of(RecordKind.CUSTOM_TAG, item).tag,)

    found = _records(storages, attempt).read(record_id)
    if found is not None and not address.is_on_host:
        assert isinstance(found.record, CustomTag)
        where = address if final is None else final
        tag = found.record.name
        shown = tag if final is None else where.tagged(tag)
        to_delete = tags_to_delete(attempt, record_tags) if final is None else tuple

        def check() -> None:
            again = _records(storages, attempt).read(record_id)
            if again is None or again.record != found.record:
                raise CustomTagError(f"{where}:{tag} is no custom tag any more: it stays")

        with naming_failure(f"the tag {shown} cannot be deleted"):
            storages.open(where).delete_tag(tag, replace(attempt, to_delete=to_delete), check=check)
    with naming_failure(f"the tag is deleted, but its record {record_id.tag} cannot be"):
        item_result = _delete(storages, attempt, record_id, record_tags)
    return item_result if found is None else ItemResult()


def delete_rejected_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Delete the rejected stage `attempt.item`, and then its record, so that nobody uses it meanwhile.

    With the option `unfinished` also a stage whose record is a deletion's leftover; else only that record.

    Raises:
        StageNotFoundError: The stage is not rejected, and so stays.
        LockTimeoutError: It was being copied for too long.
    """
    operation, stage_id = attempt.parsed(operations.DeleteRejectedStageOperation), StageId.parse(attempt.item)
    address = operation.repository
    record_id = RecordId.of(RecordKind.REJECTED_STAGE, attempt.item)
    if address.is_on_host:
        return _delete_record(storages, attempt, RecordKind.REJECTED_STAGE)
    registries, storage = storages.registries, storages.open(address)
    to_delete = tags_to_delete(attempt, lambda item: (item, StageId.parse(item).rejected_tag))

    def check() -> None:
        if storage.records.read(record_id) is None:
            raise StageNotFoundError(f"{address}: the stage {stage_id} is rejected no more: it stays")

    with registries.stage_locks.lock_exclusively(address, stage_id, attempt=attempt) as stage_lock:
        locked = replace(attempt, lease=stage_lock, to_delete=to_delete)
        is_there = storage.records.read(record_id) is not None
        is_ours = operation.unfinished or registries.rejections(address).stands(stage_id)
        if is_there and is_ours:
            if operation.referrers:
                deleted = storage.delete_with_referrers(stage_id, locked, check=check, is_locked=True)
            else:
                deleted = storage.delete_tag(str(stage_id), locked, check=check, is_locked=True)
            storage.records.delete(record_id, locked)
            registries.remembered.forget(address, stage_id)
            return ItemResult() if deleted == NOT_THERE else deleted
        if is_there:
            storages.deletions.withdraw_rejection(address, stage_id, stage_lock)
        try:
            storage.fetch_manifest(stage_id)
        except StageNotFoundError:
            return counted_as_deleted(ItemResult() if is_there else NOT_THERE, attempt)
    raise StageNotFoundError(f"{address} has the stage {stage_id}, but not rejected: it stays")


def _read(storages: Storages, attempt: Attempt, kind: RecordKind) -> ItemResult:
    found = _records(storages, attempt).read(RecordId.of(kind, attempt.item))
    return ItemResult(skipped=True) if found is None else ItemResult(result=found.as_json())


def _records(storages: Storages, attempt: Attempt) -> RecordStore:
    return storages.open(attempt.parsed(operations.RecordOperation).repository).records


def _delete_record(storages: Storages, attempt: Attempt, kind: RecordKind) -> ItemResult:
    record_id = RecordId.of(kind, attempt.item)
    return _delete(storages, attempt, record_id, lambda item: (RecordId.of(kind, item).tag,))


def _delete(
    storages: Storages, attempt: Attempt, record_id: RecordId, tags: Callable[[str], Iterable[str]]
) -> ItemResult:
    """Delete a record from its storage."""
    to_delete = tags_to_delete(attempt, tags)
    item_result = _records(storages, attempt).delete(record_id, replace(attempt, to_delete=to_delete))
    return counted_as_deleted(item_result, attempt)
