"""Reads and deletions of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from pydantic import validate_call

from stagefleet.errors import UsageError
from stagefleet.names import StageId, StorageAddress
from stagefleet.operations.base import Plan, PlanStorages, StorageOperation, bounded, left_out_if_unset
from stagefleet.project_addresses import Items
from stagefleet.records import ImageMetadata, RecordId, RecordKind
from stagefleet.redaction import quoted
from stagefleet.setting_types import RepositoryText, StorageAddressText


class RecordOperation(StorageOperation):
    """Read or delete records of one kind; an item is the name of a record."""

    past: ClassVar[str] = "deleted"
    noun: ClassVar[str] = "record"
    record_kind: ClassVar[RecordKind]

    @property
    def kind_of_items(self) -> RecordKind:
        """The kind of its records."""
        return self.record_kind

    @property
    def deletes_from(self) -> tuple[StorageAddress, ...]:
        return (self.repository,)

    def parse_items(self, items: Items | None) -> tuple[str, ...] | None:
        """Parse names; keep custom tags as given, since they may be slugs."""
        if items is None:
            return None
        _refuse_string(items, "the records are")
        is_kept = self.kind_of_items is RecordKind.CUSTOM_TAG
        parsed = {str(item): RecordId.of(self.kind_of_items, str(item)).item for item in items}
        return tuple(parsed if is_kept else dict.fromkeys(parsed.values()))

    def _plan(self, items: Sequence[str] | None, storages: PlanStorages) -> Plan:
        if items is not None:
            storages.expect(self.repository)
            return Plan(bounded(items, "records"))
        listed = storages.record_ids(self.repository, self.kind_of_items)
        found = bounded((record_id.item for record_id in listed), "records")
        if not found:
            storages.expect(self.repository)
        return Plan(found)


class _ReadOperation(RecordOperation):
    """Read records; the result is the record."""

    past: ClassVar[str] = "read"

    @property
    def deletes_from(self) -> tuple[StorageAddress, ...]:
        return ()


class DeleteManagedImageOperation(RecordOperation):
    """Delete the records of managed images."""

    name: ClassVar[str] = "rm_managed_image"
    record_kind: ClassVar[RecordKind] = RecordKind.MANAGED_IMAGE


class DeleteImageMetadataOperation(RecordOperation):
    """Delete metadata of one image, by name or by the hash in the tags; an item is `COMMIT_STAGEID`."""

    name: ClassVar[str] = "rm_image_metadata"
    record_kind: ClassVar[RecordKind] = RecordKind.IMAGE_METADATA

    image: str

    def parse_items(self, items: Items | None) -> tuple[str, ...]:
        parts = (str(item).partition("_") for item in items or ())
        return image_metadata_items((stage_id, [commit]) for commit, _, stage_id in parts)


class ReadImportMetadataOperation(_ReadOperation):
    """Read import metadata."""

    name: ClassVar[str] = "get_import_metadata"
    record_kind: ClassVar[RecordKind] = RecordKind.IMPORT_METADATA


class DeleteImportMetadataOperation(RecordOperation):
    """Delete import metadata."""

    name: ClassVar[str] = "rm_import_metadata"
    record_kind: ClassVar[RecordKind] = RecordKind.IMPORT_METADATA


class ReadCustomTagOperation(_ReadOperation):
    """Read the records of custom tags, by tag or by the tag's slug."""

    name: ClassVar[str] = "get_stage_custom_tag_metadata"
    record_kind: ClassVar[RecordKind] = RecordKind.CUSTOM_TAG


class DeleteCustomTagOperation(RecordOperation):
    """Delete custom tags and their records, by tag or by the tag's slug; keep the stages.

    `final` is the repository of the tags, if it is not the records'.
    """

    name: ClassVar[str] = "delete_stage_custom_tag"
    record_kind: ClassVar[RecordKind] = RecordKind.CUSTOM_TAG

    final: RepositoryText | None = left_out_if_unset(default=None)

    @property
    def deletes_from(self) -> tuple[StorageAddress, ...]:
        return (self.repository, *(() if self.final is None else (self.final,)))


class DeleteRejectedStageOperation(RecordOperation):
    """Delete rejected stages, image and record.

    With `unfinished` delete also a stage whose record is a deletion's leftover; with `referrers` what refers
    to the stages, too, as `DeleteOperation` does.
    """

    name: ClassVar[str] = "delete_rejected_stage"
    record_kind: ClassVar[RecordKind] = RecordKind.REJECTED_STAGE

    unfinished: bool = left_out_if_unset(default=False)
    referrers: bool = left_out_if_unset(default=False)


class DeleteRecordOperation(RecordOperation):
    """Delete records of any kind, but keep the custom tag or rejected stage itself."""

    name: ClassVar[str] = "rm_record"

    kind: RecordKind

    @property
    def kind_of_items(self) -> RecordKind:
        return self.kind


_REMOVALS: Mapping[RecordKind, type[RecordOperation]] = {
    operation.record_kind: operation
    for operation in (
        DeleteManagedImageOperation,
        DeleteImportMetadataOperation,
        DeleteRejectedStageOperation,
    )
}
"""The operation that deletes a kind, but for custom tags; kinds that are rarely deleted in bulk share one."""


@validate_call
def removal_of(
    kind: RecordKind,
    *,
    repository: StorageAddressText,
    hosts: tuple[str, ...] = (),
    final: RepositoryText | None = None,
) -> RecordOperation:
    """Return the operation that deletes records of a kind, with the custom tags and stages they describe.

    `final` is the repository of custom tags, if it is not the records'; other kinds have no use for it.
    """
    if kind is RecordKind.CUSTOM_TAG:
        return DeleteCustomTagOperation(repository=repository, hosts=hosts, final=final)
    if final is not None:
        raise UsageError(f"final: a {kind} has no use for it; custom tags alone are kept there")
    if kind in _REMOVALS:
        return _REMOVALS[kind](repository=repository, hosts=hosts)
    return DeleteRecordOperation(repository=repository, hosts=hosts, kind=kind)


def image_metadata_items(stage_commits: Iterable[tuple[str | StageId, Iterable[str]]]) -> tuple[str, ...]:
    """Return one item per commit of each stage, `COMMIT_STAGEID`; `UsageError` for a malformed one."""
    items: dict[str, None] = {}
    for name, commits in stage_commits:
        stage_id = StageId.parse(str(name))
        _refuse_string(commits, "the commits of a stage are")
        for commit in commits:
            _ = ImageMetadata("0", commit, stage_id).id  # rejects an invalid record
            items[f"{commit}_{stage_id}"] = None
    return tuple(items)


def _refuse_string(names: object, what: str) -> None:
    if isinstance(names, str):
        raise UsageError(f"{what} one string, {quoted(names, limit=40)}: hand in a list")
