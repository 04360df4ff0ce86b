"""Records of a repository: list, read and write.

The manager deletes them, so that no other tag goes with one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stagefleet.errors import (
    BrokenRecordError,
    BrokenStageError,
    ContentError,
    ForbiddenError,
    NotFoundError,
    TruncatedError,
    UnsupportedManifestError,
    UsageError,
)
from stagefleet.images import ImageInfo
from stagefleet.leases import NO_LEASE, Lease
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records import RECORDS, ClientId, Record, RecordId, RecordImage, RecordKind, is_placeholder
from stagefleet.records.image import PROJECT_LABEL
from stagefleet.records.record import Labels
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.storages.image_config import describe_image

__all__ = ["LabelledImage", "RecordStore", "StoredRecord", "WriteResult", "put_record", "read_labels"]

_LOGGER = logging.getLogger(__name__)

_WRITTEN_ONCE = {RecordKind.MANAGED_IMAGE, RecordKind.IMAGE_METADATA, RecordKind.IMPORT_METADATA}
"""Record kinds that are never overwritten: an existing one is equal, or must stay."""

_DISPENSABLE = {RecordKind.IMAGE_METADATA, RecordKind.IMPORT_METADATA}
"""Record kinds without which a build goes on if the login may not write them."""

_SHOWN = 3
"""Most client ids in an error message; there is one, unless two were chosen at the same moment."""


class WriteResult(StrEnum):
    """Result of writing a record."""

    WRITTEN = "written"
    PRESENT = "present"
    """It existed already."""
    FORBIDDEN = "forbidden"
    """The login may not write, and the record is dispensable."""
    IGNORED = "ignored"
    """The storage does not keep records of this kind."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record in a repository.

    Attributes:
        record: The record.
        project: The project that it belongs to.
        info: The image that holds it.
    """

    record: Record
    project: str
    info: ImageInfo

    def as_json(self) -> dict[str, Any]:
        """Return the record in the form of commands and outcomes (see docs/records.md)."""
        created_at = self.info.created_at
        return {
            **self.record.as_json(),
            "project": self.project,
            "created_at": None if created_at is None else created_at.isoformat(),
        }


class RecordStore:
    """Records of a project in a repository; thread-safe.

    Args:
        client: Client for registries.
        repository: The repository.
        project: Project of written records; a read record names its own.
    """

    def __init__(self, client: RegistryClient, repository: Repository, project: str) -> None:
        self._client = client
        self._repository = repository
        self._project = project

    def ids(
        self, kind: RecordKind | None = None, *, on_unknown: Callable[[str], None] | None = None
    ) -> Iterator[RecordId]:
        """List the ids of the records in the order of the tag list; empty if the repository does not exist.

        Args:
            kind: List this kind only.
            on_unknown: Called with each tag of neither a stage nor a record, while the list is read.
        """
        try:
            for tag in self._client.tags(self._repository):
                record_id = RecordId.from_tag(tag)
                if record_id is None:
                    if on_unknown is not None and StageId.from_tag(tag) is None:
                        on_unknown(tag)
                elif kind is None or record_id.kind is kind:
                    yield record_id
        except NotFoundError:
            return

    def read(self, record_id: RecordId) -> StoredRecord | None:
        """Read one record, None if it does not exist.

        Raises:
            BrokenRecordError: The image under its tag is no record, lacks a label, or cannot be read.
        """
        reference = self._repository.tagged(record_id.tag)
        info = self._describe(reference)
        if info is None:
            return None
        project = info.labels.get(PROJECT_LABEL)
        if project is None:
            raise BrokenRecordError(
                f"{reference} is no record: it lacks the label {PROJECT_LABEL}; left alone"
            )
        try:
            record = RECORDS[record_id.kind].read(record_id.name, Labels(record_id.tag, info.labels))
        except BrokenRecordError as error:
            raise BrokenRecordError(f"{self._repository}: {error}") from None
        return StoredRecord(record, project, info)

    def write(self, record: Record, *, force: bool = False, lease: Lease = NO_LEASE) -> WriteResult:
        """Write a record.

        Args:
            record: The record.
            force: Overwrite an existing record.
            lease: Lease to check before the write.

        Raises:
            ForbiddenError: The login may not write, and the record is not dispensable.
            InvalidNameError: The record has no valid tag.
            UsageError: It is a client id, and the repository has another.
        """
        reference = self._repository.tagged(record.id.tag)
        if isinstance(record, ClientId) and self._has_client_id(record) and not force:
            return WriteResult.PRESENT
        if record.kind in _WRITTEN_ONCE and not force and self._has(reference):
            return WriteResult.PRESENT
        try:
            put_record(self._client, reference, RecordImage.of(self._project, record.labels), lease=lease)
        except ForbiddenError as error:
            if record.kind not in _DISPENSABLE:
                raise
            _LOGGER.warning("%s is not written: %s", reference, error)
            return WriteResult.FORBIDDEN
        return WriteResult.WRITTEN

    def _has_client_id(self, record: ClientId) -> bool:
        """Return True if this client id exists.

        Raises:
            UsageError: Another one exists: builds that use it would not wait for builds that use this one.
        """
        there = set(self.ids(RecordKind.CLIENT_ID))
        if there and record.id not in there:
            shown = ", ".join(sorted(str(found.name) for found in there)[:_SHOWN])
            raise UsageError(
                f"{self._repository} has a client id, {shown}: builds would lock under two. Remove it first, "
                f"while nobody builds, with stagefleet records remove {self._repository} client-id ID"
            )
        return record.id in there

    def _has(self, reference: Reference) -> bool:
        try:
            # An index is not a record but a placeholder left by a crash.
            return not self._client.head_manifest(reference).media_type.endswith("index.v1+json")
        except NotFoundError:
            return False

    def _describe(self, reference: Reference) -> ImageInfo | None:
        try:
            manifest = self._client.fetch_manifest(reference)
        except NotFoundError:
            return None
        except (BrokenStageError, UnsupportedManifestError) as error:
            raise BrokenRecordError(f"{reference} is no record that can be read: {error}") from error
        if is_placeholder(manifest.annotations):
            return None
        if manifest.config is None:
            raise BrokenRecordError(f"{reference} is an index and no record: left alone")
        try:
            config = self._client.fetch_blob(self._repository, manifest.config)
            return describe_image(reference, manifest, config)
        except (NotFoundError, BrokenStageError, TruncatedError) as error:
            raise BrokenRecordError(f"{reference} is no record that can be read: {error}") from error


# Labels of a record, whatever its kind.


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """The digest and labels of an image.

    Attributes:
        digest: Digest of its manifest, None if that cannot be read.
        labels: Labels of its configuration; empty if that cannot be read.
    """

    digest: Digest | None
    labels: Mapping[str, str]


def read_labels(client: RegistryClient, reference: Reference) -> LabelledImage | None:
    """Read an image's labels; None if there is no image, or a placeholder.

    Raises:
        RegistryError: The registry fails, or refuses the read.
    """
    digest = None
    try:
        manifest = client.fetch_manifest(reference)
        if is_placeholder(manifest.annotations):
            return None
        digest = manifest.digest
        if manifest.config is None:
            return LabelledImage(digest, {})
        try:
            config = client.fetch_blob(reference.repository, manifest.config)
        except NotFoundError:
            return LabelledImage(digest, {})
        return LabelledImage(digest, describe_image(reference, manifest, config).labels)
    except NotFoundError:
        return None
    except ContentError:
        return LabelledImage(digest, {})


# Writer of records into repositories.


def put_record(
    client: RegistryClient, reference: Reference, record: RecordImage, *, lease: Lease
) -> Descriptor:
    """Push a record under a tag.

    Returns:
        The descriptor of its manifest.
    """
    repository = reference.repository
    for digest, content in record.blobs.items():
        upload = client.begin_upload(repository, digest, mount_from=repository)
        if upload is not None:
            client.upload_bytes(upload, content)
    manifest = Manifest.of(record.manifest)
    client.put_manifest(reference, manifest, lease=lease)
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
