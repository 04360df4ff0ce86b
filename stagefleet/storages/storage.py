"""Storages of stages and records, of whatever medium: what all of them can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import Repository, StageId, StorageAddress
from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import CustomTag, Record
from stagefleet.shared_state.tag_lists import StageIdList


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

    @property
    @abstractmethod
    def records(self) -> RecordStore:
        """The records."""


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
