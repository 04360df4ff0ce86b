"""Records of a repository."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.image_config import describe_image
from stagefleet.images import ImageInfo
from stagefleet.leases import NO_LEASE
from stagefleet.manifests import Manifest
from stagefleet.names import Reference, Repository, StageId
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.image import PROJECT_LABEL, RecordImage, is_placeholder, put_record
from stagefleet.records.models import RECORDS, ClientId, CustomTag, Labels, Record, RejectedStage
from stagefleet.storages.base import RecordStore, StoredRecord, WriteResult

if TYPE_CHECKING:
    from stagefleet.storages.repository import RegistryStorage

_LOGGER = logging.getLogger(__name__)

_WRITTEN_ONCE = {RecordKind.MANAGED_IMAGE, RecordKind.IMAGE_METADATA, RecordKind.IMPORT_METADATA}
"""Record kinds that are never overwritten: an existing one is equal, or must stay."""

_DISPENSABLE = {RecordKind.IMAGE_METADATA, RecordKind.IMPORT_METADATA}
"""Record kinds without which a build goes on if the login may not write them."""

_SHOWN = 3
"""Most client ids in an error message; there is one, unless two were chosen at the same moment."""


class RepositoryRecords(RecordStore):
    """Records of a repository."""

    def __init__(self, storage: RegistryStorage) -> None:
        self._storage = storage
        self._registries = storage.registries
        self._client = storage.registries.client
        self._repository = storage.address

    def ids(
        self, kind: RecordKind | None = None, *, on_unknown: Callable[[str], None] | None = None
    ) -> Iterator[RecordId]:
        for tag in self._registries.tags(self._repository):
            record_id = RecordId.from_tag(tag)
            if record_id is None:
                if on_unknown is not None and StageId.from_tag(tag) is None:
                    on_unknown(tag)
            elif kind is None or record_id.kind is kind:
                yield record_id

    def rejects(self, stage_id: StageId) -> bool:
        """Return True if a record rejects a stage now."""
        is_there = self._storage.has(stage_id.rejected_tag)
        return is_there and self._registries.rejections(self._repository).stands(stage_id)

    def read(self, record_id: RecordId) -> StoredRecord | None:
        reference = self._repository.tagged(record_id.tag)
        info = self._describe(reference)
        if info is None:
            return None
        project = info.labels.get(PROJECT_LABEL)
        if project is None:
            raise errors.BrokenRecordError(
                f"{reference} is no record: it lacks the label {PROJECT_LABEL}; left alone"
            )
        try:
            record = RECORDS[record_id.kind].read(record_id.name, Labels(record_id.tag, info.labels))
        except errors.BrokenRecordError as error:
            raise errors.BrokenRecordError(f"{self._repository}: {error}") from None
        return StoredRecord(record, project, info)

    def write(self, record: Record, *, project: str | None = None, force: bool = False) -> WriteResult:
        written = self._write(record, project or self._repository.name, force=force)
        if isinstance(record, RejectedStage):
            self._registries.forget_rejections(self._repository)
            self._registries.remembered.forget(self._repository, record.stage_id)
        return written

    def _write(self, record: Record, project: str, *, force: bool) -> WriteResult:
        reference = self._repository.tagged(record.id.tag)
        if isinstance(record, ClientId) and self._has_client_id(record) and not force:
            return WriteResult.PRESENT
        if record.kind in _WRITTEN_ONCE and not force and self._has(reference):
            return WriteResult.PRESENT
        try:
            put_record(self._client, reference, RecordImage.of(project, record.labels), lease=NO_LEASE)
        except errors.ForbiddenError as error:
            if record.kind not in _DISPENSABLE:
                raise
            _LOGGER.warning("%s is not written: %s", reference, error)
            return WriteResult.FORBIDDEN
        return WriteResult.WRITTEN

    def delete(self, record_id: RecordId, attempt: Attempt) -> ItemResult:
        item_result = self._storage.delete_tag(record_id.tag, attempt, check=lambda: self.read(record_id))
        if record_id.kind is RecordKind.REJECTED_STAGE:
            self._registries.forget_rejections(self._repository)
            named = StageId.parse(record_id.name)
            self._registries.remembered.rejections.forget(str(self._repository), named)
            self._registries.remembered.add(self._repository, named)  # it may be listed again, if it exists
        return item_result

    # Custom tags: in the final storage of a project that has one, their records always in the primary

    def add_custom_tag(
        self, custom: CustomTag, *, project: str | None = None, final: Repository | None = None
    ) -> WriteResult:
        where = final or self._repository
        stage = self._manifest(where.tagged(str(custom.stage_id)))
        if stage is None or self._registries.rejections(where).stands(custom.stage_id):
            advice = "" if final is None else ": publish it first"
            raise errors.StageNotFoundError(f"{where} has no stage {custom.stage_id} to be tagged{advice}")
        with naming_failure(f"the record of the tag {custom.name} cannot be written"):
            written = self.write(custom, project=project)
        with naming_failure(f"the tag {custom.name} has its record, but cannot be set"):
            self._client.put_manifest(where.tagged(custom.name), stage)
        return written

    def check_custom_tag(self, custom: CustomTag, *, final: Repository | None = None) -> None:
        where = final or self._repository
        there = self._manifest(where.tagged(custom.name))
        if there is None:
            advice = "" if final else ", or name the project whose final storage has it"
            raise errors.CustomTagError(f"{where} has no tag {custom.name}: add it again{advice}")
        stage = self._manifest(where.tagged(str(custom.stage_id)))
        if stage is None or stage.digest != there.digest:
            what = "which is gone" if stage is None else "but another image"
            raise errors.CustomTagError(
                f"{where}:{custom.name} is not the stage {custom.stage_id}, {what}: add it again"
            )

    def _manifest(self, reference: Reference) -> Manifest | None:
        try:
            manifest = self._client.fetch_manifest(reference)
        except errors.NotFoundError:
            return None
        return None if is_placeholder(manifest.annotations) else manifest

    def _has_client_id(self, record: ClientId) -> bool:
        """Return True if this client id exists; refuse a second one: builds under two would not wait."""
        there = set(self.ids(RecordKind.CLIENT_ID))
        if there and record.id not in there:
            shown = ", ".join(sorted(str(found.name) for found in there)[:_SHOWN])
            raise errors.UsageError(
                f"{self._repository} has a client id, {shown}: builds would lock under two. Remove it first, "
                f"while nobody builds, with stagefleet records remove {self._repository} client-id ID"
            )
        return record.id in there

    def _has(self, reference: Reference) -> bool:
        try:
            # An index is not a record but a placeholder left by a crash.
            return not self._client.head_manifest(reference).media_type.endswith("index.v1+json")
        except errors.NotFoundError:
            return False

    def _describe(self, reference: Reference) -> ImageInfo | None:
        try:
            manifest = self._manifest(reference)
        except (errors.BrokenStageError, errors.UnsupportedManifestError) as error:
            raise errors.BrokenRecordError(f"{reference} is no record that can be read: {error}") from error
        if manifest is None:
            return None
        if manifest.config is None:
            raise errors.BrokenRecordError(f"{reference} is an index and no record: left alone")
        try:
            config = self._client.fetch_blob(self._repository, manifest.config)
            return describe_image(self._repository, reference.tag or "", manifest, config)
        except (errors.NotFoundError, errors.BrokenStageError, errors.TruncatedError) as error:
            raise errors.BrokenRecordError(f"{reference} is no record that can be read: {error}") from error


@contextmanager
def naming_failure(what: str) -> Iterator[None]:
    """Prefix an error's message with the step that failed; keep the error otherwise."""
    try:
        yield
    except errors.StagefleetError as error:
        error.args = (f"{what}: {error}", *error.args[1:])
        raise
