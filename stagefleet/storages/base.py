"""Storages of stages and records, of whatever medium: what all of them can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING, Any

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.image_config import describe_image, describe_index
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import Descriptor, Manifest, Member, MemberReader
from stagefleet.names import Digest, Repository, StageId, StorageAddress
from stagefleet.registry.blob_source import BlobSource
from stagefleet.shared_state.base import SharedState
from stagefleet.stage_lists import StageIdList

if TYPE_CHECKING:
    from stagefleet.records import CustomTag, Record, RecordId, RecordKind
    from stagefleet.storages.verification import VerificationResult


class Storage(ABC):
    """A storage of stages; thread-safe. `Storages.open` opens one, and `transfer` copies between two."""

    address: StorageAddress

    @abstractmethod
    def check(self) -> None:
        """Check that the storage answers and accepts the login; raise if not."""

    def exists(self) -> bool:
        """Return True if the storage exists, even an empty one; raise as `check` if it does not answer."""
        return True

    @abstractmethod
    def stage_ids(self) -> StageIdList:
        """List the stages, without rejected ones; empty if the storage does not exist."""

    def describe(self, stage_id: StageId) -> StageDescription:
        """Describe a stage that is not rejected, maybe from the fleet's memory; errors as of `read`."""
        return self.read(stage_id)

    @abstractmethod
    def read(self, stage_id: StageId) -> StageDescription:
        """Describe one stage as it is now, rejected or not.

        Raises:
            StageNotFoundError: It does not exist.
            BrokenStageError: It is listed, but its content cannot be read.
        """

    def known(self, stage_ids: Sequence[StageId]) -> list[StageDescription | None]:
        """Return what the fleet remembers of stages, None for each that is not known; no requests.

        The caller must know that they exist and are not rejected, as from `stage_ids`.
        """
        return [None] * len(stage_ids)

    @abstractmethod
    def delete(self, stage_id: StageId, attempt: Attempt) -> ItemResult:
        """Delete one stage, and no tag outside of the run; `NOT_THERE` for a missing one.

        Raises:
            ImageInUseError: A job or a container of the host uses it; names it and the option to set.
            LockTimeoutError: It was being copied for too long.
            StagefleetError: The registry cannot delete it, or not without tags that stay.
        """

    @abstractmethod
    def verify(
        self, stage_id: StageId, attempt: Attempt, shared_state: SharedState, *, shallow: bool
    ) -> VerificationResult:
        """Read all content of a stage, or with `shallow` ask for it, and return what is wrong.

        Raises:
            StageNotFoundError: It does not exist.
            StorageStateChangedError: It was replaced meanwhile.
            StagefleetError: A read failed, which proves nothing about the stage.
        """

    def reject(self, stage_id: StageId, *, project: str, lease: Lease) -> None:
        """Reject a broken stage, so that nobody uses it; a second rejection changes nothing.

        Raises:
            UsageError: The storage keeps no rejections, or it is a multi-platform stage: builders would
                refuse to build its image for good.
            RegistryError: The record cannot be written.
        """
        del stage_id, project, lease
        raise errors.UsageError(f"{self.address} keeps no rejections")

    @property
    @abstractmethod
    def records(self) -> RecordStore:
        """The records."""


class ManifestStorage(Storage):
    """A storage that keeps manifests and blobs byte for byte, as engines do not.

    What it lists and cannot deliver is a `BrokenStageError`, or a registry's `NotFoundError`.
    """

    @abstractmethod
    def find_digest(self, stage_id: StageId) -> Digest:
        """Return the digest of a stage's manifest; `StageNotFoundError` if there is none."""

    @abstractmethod
    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        """Fetch the manifest or index of a stage.

        Raises:
            StageNotFoundError: There is none, or a placeholder.
            BrokenStageError: It is listed, but cannot be delivered.
        """

    @abstractmethod
    def fetch_member(self, digest: Digest) -> Manifest:
        """Fetch a manifest that an index has as a member."""

    @abstractmethod
    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return True if it lists a blob; the content may still be missing or wrong.

        Raises:
            DigestMismatchError: It lists the blob with another size.
        """

    @abstractmethod
    def open_blob(
        self,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
    ) -> BlobSource:
        """Open a blob for reading; `on_bytes` is called with the size of each chunk."""

    @abstractmethod
    def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """Fetch a small blob and verify it."""

    def reopened(self) -> AbstractContextManager[ManifestStorage]:
        """Open the storage once more, over connections of its own and past every cache on the way."""
        return nullcontext(self)

    def reader(self) -> StageReader:
        """Create a reader for one stage or image."""
        return StageReader(self)

    def read(self, stage_id: StageId) -> StageDescription:
        info = self.reader().describe(self.fetch_manifest(stage_id), str(stage_id))
        return StageDescription(stage_id=stage_id, info=info)

    def verify(
        self, stage_id: StageId, attempt: Attempt, shared_state: SharedState, *, shallow: bool
    ) -> VerificationResult:
        from stagefleet.storages.verification import ContentVerification  # noqa: PLC0415 - only workers verify

        return ContentVerification(self, stage_id, attempt, shared_state, shallow=shallow).execute()


@contextmanager
def requiring_blob(storage: ManifestStorage, blob: Descriptor) -> Iterator[None]:
    """Raise `BrokenStageError` where the block finds that a storage lacks a blob of one of its stages."""
    try:
        yield
    except errors.NotFoundError as error:
        if error.method != "GET" or error.repository != str(storage.address):
            raise
        raise errors.BrokenStageError(
            f"{storage.address} lacks the blob {blob.digest} of the stage; build it again"
        ) from error


# Reader for one stage: members and configurations, with limits for number and size.

CONFIG_BYTES = 8 * 1024 * 1024
"""Largest configuration that is read into memory; a larger one, which no image has, is only copied."""
_CONFIGS_BYTES = 8 * CONFIG_BYTES
"""Most bytes read of all configurations of an index."""


class StageReader:
    """Read one stage, an image or an index; create a new reader for each. Thread-safe.

    All methods raise `BrokenStageError` if the storage cannot deliver something.
    """

    def __init__(self, storage: ManifestStorage) -> None:
        self.storage = storage
        self._address = storage.address
        self._members = MemberReader(storage.fetch_member, storage.address)
        self._lock = Lock()
        self._config_bytes_left = _CONFIGS_BYTES

    def members(self, index: Manifest, depth: int = 1) -> Iterator[Member]:
        """Yield the members of an index that were not yielded before; as `MemberReader.members`.

        Raises:
            UnsupportedManifestError: The index is nested too deep, or leads to too many manifests or blobs.
        """
        try:
            yield from self._members.members(index, depth)
        except errors.NotFoundError as error:
            raise self._broken(index, error) from error

    def descriptors(self, index: Manifest, depth: int = 1) -> Iterator[Descriptor]:
        """Yield the descriptors of an index's members, without a request; as `MemberReader.descriptors`."""
        return self._members.descriptors(index, depth)

    def member(self, index: Manifest, digest: Digest) -> Manifest:
        """Return the manifest of one member of an index, also repeatedly."""
        try:
            return self.storage.fetch_member(digest)
        except errors.NotFoundError as error:
            raise self._broken(index, error) from error

    def config(self, manifest: Manifest) -> bytes | None:
        """Return the configuration of an image; None if it is too large to be read.

        Raises:
            UnsupportedManifestError: The manifest refers to none.
        """
        config = manifest.config
        if config is None:
            raise errors.UnsupportedManifestError(
                f"{self._address}@{manifest.digest}: the manifest names no configuration"
            )
        with self._lock:
            if config.size > min(CONFIG_BYTES, self._config_bytes_left):
                return None
            self._config_bytes_left -= config.size
        current_lease().check()
        try:
            return self.storage.fetch_blob(config)
        except errors.NotFoundError as error:
            raise self._broken(manifest, error) from error

    def describe(self, manifest: Manifest, tag: str = "", depth: int = 1) -> ImageInfo:
        """Describe an image, or an index with all its members; errors as of `members`.

        The tag is "" for an image by its digest.
        """
        if not manifest.is_index:
            return describe_image(self._address, tag, manifest, self.config(manifest))
        infos, blob_bytes = [], 0
        for member in self.members(manifest, depth):
            if member.manifest is None:
                blob_bytes += member.descriptor.size
            else:
                infos.append(self.describe(member.manifest, depth=depth + 1))
        return describe_index(self._address, tag, manifest, infos, blob_bytes=blob_bytes)

    def _broken(self, manifest: Manifest, error: Exception) -> errors.BrokenStageError:
        return errors.BrokenStageError(
            f"{self._address}@{manifest.digest}: the registry cannot give all of it ({error}); build it again"
        )


# Records.


class RecordStore(ABC):
    """The records of a storage; thread-safe."""

    @abstractmethod
    def ids(
        self, kind: RecordKind | None = None, *, on_unknown: Callable[[str], None] | None = None
    ) -> Iterator[RecordId]:
        """List the ids of the records, of one kind or all; empty if the storage does not exist.

        `on_unknown` is called with each tag of neither a stage nor a record, while the list is read.
        """

    @abstractmethod
    def read(self, record_id: RecordId) -> StoredRecord | None:
        """Read one record, None if it does not exist.

        Raises:
            BrokenRecordError: The image under its name is no record, lacks a label, or cannot be read.
        """

    @abstractmethod
    def write(self, record: Record, *, project: str | None = None, force: bool = False) -> WriteResult:
        """Write a record, over an existing one only if forced; of a custom tag the record alone.

        `project` is the project that it belongs to; the storage's name if None.

        Raises:
            ForbiddenError: The login may not write, and the record is not dispensable.
            InvalidNameError: The record has no valid tag.
            UsageError: It is a client id, and the storage has another; or the storage cannot keep records
                of another project.
        """

    @abstractmethod
    def delete(self, record_id: RecordId, attempt: Attempt) -> ItemResult:
        """Delete a record; `NOT_THERE` for a missing one. Errors as of `Storage.delete`.

        Raises:
            BrokenRecordError: The image under its name is no record; it is not deleted.
        """

    def add_custom_tag(
        self, custom: CustomTag, *, project: str | None = None, final: Repository | None = None
    ) -> WriteResult:
        """Add a custom tag to a stage: first the record, so that no tag lacks one, then the tag.

        The tag goes into the repository `final` if there is one, which has to have the stage.
        """
        del final
        return self.write(custom, project=project)

    def check_custom_tag(self, custom: CustomTag, *, final: Repository | None = None) -> None:  # noqa: B027 - without such tags there is nothing to check
        """Raise `CustomTagError` for a tag that names another image, where the storage has such tags."""


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
    """A record in a storage: its project, and the image that holds it."""

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
