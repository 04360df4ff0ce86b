"""Tasks that read or delete one record or custom tag; every option `repository` names its storage.

In this host's engine there is import metadata only: other kinds are never found, and need no deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from stagefleet.attempt import NOT_THERE, ItemResult
from stagefleet.names import Repository, StageId, parse_address
from stagefleet.records import RecordId, RecordKind
from stagefleet.storages.manager import StageManager
from stagefleet.storages.records import metadata_ids
from tasks.delete import counted_as_deleted, tags_to_delete
from tasks.item import Attempt

__all__ = [
    "delete_rejected_stage",
    "delete_stage_custom_tag",
    "get_import_metadata",
    "get_stage_custom_tag_metadata",
    "rm_image_metadata",
    "rm_import_metadata",
    "rm_managed_image",
    "rm_record",
]


def rm_image_metadata(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the metadata `job.item`, `COMMIT_STAGEID`; option `image`, a name or its hash."""

    def candidates(item: str) -> list[RecordId]:
        commit, _, stage_id = item.partition("_")
        return metadata_ids(attempt.options["image"], commit, StageId.parse(stage_id))

    def certain(item: str) -> list[str]:
        """Return no tags if two may be meant: only a read tells which."""
        found = candidates(item)
        return [found[0].tag] if len(found) == 1 else []

    return _delete(
        manager,
        attempt,
        candidates(attempt.item)[0],
        partial(manager.records.delete_image_metadata, candidates=candidates(attempt.item)),
        certain,
    )


def rm_managed_image(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the record of the managed image `job.item`."""
    return _delete_record(manager, attempt, RecordKind.MANAGED_IMAGE)


def rm_import_metadata(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the import metadata `job.item`."""
    return _delete_record(manager, attempt, RecordKind.IMPORT_METADATA)


def rm_record(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the record `job.item`; option `kind`."""
    return _delete_record(manager, attempt, RecordKind(attempt.options["kind"]))


def get_import_metadata(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Read the import metadata `job.item`; skipped if it is gone."""
    return _read(manager, attempt, RecordKind.IMPORT_METADATA)


def get_stage_custom_tag_metadata(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Read the record of the custom tag `job.item`, a tag or its slug; skipped if it is gone."""
    return _read(manager, attempt, RecordKind.CUSTOM_TAG)


def delete_stage_custom_tag(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the custom tag `job.item`, a tag or its slug, then its record.

    Option `final`: the tag's repository, if it is not the record's.
    """
    record_id, final = RecordId.of(RecordKind.CUSTOM_TAG, attempt.item), attempt.options.get("final")
    return _delete(
        manager,
        attempt,
        record_id,
        partial(
            manager.records.delete_custom_tag,
            record_id=record_id,
            final=None if final is None else Repository.parse(final),
        ),
        # Only its record tells which tag an item means, and if it is ours: so no tags are returned.
        lambda item: (RecordId.of(RecordKind.CUSTOM_TAG, item).tag,),
    )


def delete_rejected_stage(manager: StageManager, attempt: Attempt) -> ItemResult:
    """Delete the rejected stage `job.item`, then the record that rejects it.

    With the option `unfinished` also a stage whose record is a deletion's leftover.
    """
    return _delete(
        manager,
        attempt,
        RecordId.of(RecordKind.REJECTED_STAGE, attempt.item),
        partial(
            manager.records.delete_rejected_stage,
            stage_id=StageId.parse(attempt.item),
            unfinished=attempt.options.get("unfinished", False),
        ),
        lambda item: (item, StageId.parse(item).rejected_tag),
    )


def _read(manager: StageManager, attempt: Attempt, kind: RecordKind) -> ItemResult:
    place, record_id = parse_address(attempt.options["repository"]), RecordId.of(kind, attempt.item)
    if place.is_on_host:
        found = manager.host.records(place).read(record_id)
    else:
        found = manager.records.read(place, record_id)
    return ItemResult(skipped=True) if found is None else ItemResult(result=found.as_json())


def _delete_record(manager: StageManager, attempt: Attempt, kind: RecordKind) -> ItemResult:
    record_id = RecordId.of(kind, attempt.item)
    delete = partial(manager.records.delete, record_id=record_id)
    return _delete(manager, attempt, record_id, delete, lambda item: (RecordId.of(kind, item).tag,))


def _delete(
    manager: StageManager,
    attempt: Attempt,
    record_id: RecordId,
    delete: Callable[..., ItemResult],
    tags: Callable[[str], Iterable[str]],
) -> ItemResult:
    """Delete a record from its storage.

    Args:
        manager: The storage manager.
        attempt: The attempt.
        record_id: The record, in the form for an engine.
        delete: Deletes it from a repository, with its tag.
        tags: Returns the tags that an item of the run deletes.
    """
    place = parse_address(attempt.options["repository"])
    if place.is_on_host:
        attempt.lease.check()
        is_there = manager.host.records(place).remove(record_id)
        return counted_as_deleted(ItemResult() if is_there else NOT_THERE, attempt)
    item_result = delete(
        place,
        run_id=attempt.run_id,
        to_delete=tags_to_delete(attempt, tags),
        lease=attempt.lease,
    )
    return counted_as_deleted(item_result, attempt)
