"""Reading or deleting one record, or one custom tag; every option `repository` says where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stagefleet.manager import Produced, StageManager
from stagefleet.manager.records import metadata_ids
from stagefleet.names import Repository, StageId
from stagefleet.records import RecordId, RecordKind
from tasks.base import Job

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


def rm_image_metadata(manager: StageManager, job: Job) -> Produced:
    """Delete the metadata that `job.item`, `COMMIT_STAGEID`, names; option `image`, a name or its hash."""

    def candidates(item: str) -> list[RecordId]:
        commit, _, stage_id = item.partition("_")
        return metadata_ids(job.options["image"], commit, StageId.parse(stage_id))

    return manager.records.delete_image_metadata(
        _repository(job),
        candidates(job.item),
        run=job.run,
        asked=_asked(job, lambda item: (found.tag for found in candidates(item))),
        leash=job.leash,
    )


def rm_managed_image(manager: StageManager, job: Job) -> Produced:
    """Delete the record of the managed image that `job.item` names."""
    return _delete(manager, job, RecordKind.MANAGED_IMAGE)


def rm_import_metadata(manager: StageManager, job: Job) -> Produced:
    """Delete the import metadata that `job.item` names."""
    return _delete(manager, job, RecordKind.IMPORT_METADATA)


def rm_record(manager: StageManager, job: Job) -> Produced:
    """Delete the record that `job.item` names; option `kind`."""
    return _delete(manager, job, RecordKind(job.options["kind"]))


def get_import_metadata(manager: StageManager, job: Job) -> Produced:
    """Read the import metadata that `job.item` names; skipped if it is gone."""
    return _read(manager, job, RecordKind.IMPORT_METADATA)


def get_stage_custom_tag_metadata(manager: StageManager, job: Job) -> Produced:
    """Read the record of the custom tag that `job.item` is, or is the slug of; skipped if it is gone."""
    return _read(manager, job, RecordKind.CUSTOM_TAG)


def delete_stage_custom_tag(manager: StageManager, job: Job) -> Produced:
    """Delete the custom tag that `job.item` is, or is the slug of, then its record."""
    kind = RecordKind.CUSTOM_TAG
    return manager.records.delete_custom_tag(
        _repository(job),
        RecordId.of(kind, job.item),
        run=job.run,
        asked=_asked(job, lambda item: (item, RecordId.of(kind, item).tag)),
        leash=job.leash,
    )


def delete_rejected_stage(manager: StageManager, job: Job) -> Produced:
    """Delete the rejected stage that `job.item` names, then the record that rejects it."""
    return manager.records.delete_rejected_stage(
        _repository(job),
        StageId.parse(job.item),
        run=job.run,
        asked=_asked(job, lambda item: (item, StageId.parse(item).rejected_tag)),
        leash=job.leash,
    )


def _read(manager: StageManager, job: Job, kind: RecordKind) -> Produced:
    found = manager.records.read(_repository(job), RecordId.of(kind, job.item))
    return Produced(skipped=True) if found is None else Produced(result=found.as_json())


def _delete(manager: StageManager, job: Job, kind: RecordKind) -> Produced:
    return manager.records.delete(
        _repository(job),
        RecordId.of(kind, job.item),
        run=job.run,
        asked=_asked(job, lambda item: (RecordId.of(kind, item).tag,)),
        leash=job.leash,
    )


def _repository(job: Job) -> Repository:
    return Repository.parse(job.options["repository"])


def _asked(job: Job, tags: Callable[[str], Iterable[str]]) -> Callable[[], Iterator[str]]:
    """The tags of what the run has yet to delete."""
    return lambda: (tag for item in job.asked() for tag in tags(item))
