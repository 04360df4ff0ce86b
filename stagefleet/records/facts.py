"""What records say: one class a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from stagefleet.errors import BrokenRecordError, InvalidNameError
from stagefleet.names import StageId, is_tag
from stagefleet.records.identity import RecordId, RecordKind
from stagefleet.records.image_names import image_hash
from stagefleet.records.record import Labels, Record
from stagefleet.redaction import quoted

__all__ = [
    "RECORDS",
    "ClientId",
    "CustomTag",
    "ImageMetadata",
    "ImportMetadata",
    "LastCleanup",
    "LockServer",
    "ManagedImage",
    "RejectedStage",
]


@dataclass(frozen=True, slots=True)
class ManagedImage(Record):
    """An image that the project manages; clean-up keeps what belongs to one.

    Attributes:
        name: The image's name, "" for the one without.
    """

    kind = RecordKind.MANAGED_IMAGE

    name: str

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, self.name)

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        """As in `Record`."""
        return cls(name)


@dataclass(frozen=True, slots=True)
class ImageMetadata(Record):
    """That an image was built for a commit, as a stage.

    Attributes:
        image_hash: Stands for the image's name.
        commit: The commit.
        stage_id: The stage.
    """

    kind = RecordKind.IMAGE_METADATA

    image_hash: str
    commit: str
    stage_id: StageId

    @classmethod
    def of_image(cls, name: str, commit: str, stage_id: StageId) -> Self:
        """The metadata of an image by its name."""
        return cls(image_hash(name), commit, stage_id)

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, f"{self.image_hash}_{self.commit}_{self.stage_id}")

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        """As in `Record`."""
        hashed, commit, stage_id = name.split("_")
        return cls(hashed, commit, StageId.parse(stage_id))


@dataclass(frozen=True, slots=True)
class ImportMetadata(Record):
    """What was imported from a stage into another.

    Attributes:
        import_id: The import's id: what is imported, and how.
        source_stage_id: The stage that it is imported from.
        checksum: Of the files imported.
        source_id: The import's id as its label says it. It is one and the same, but earlier releases
            let the two differ.
    """

    kind = RecordKind.IMPORT_METADATA

    import_id: str
    source_stage_id: str
    checksum: str
    source_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_id", self.import_id)

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, self.import_id)

    @property
    def labels(self) -> dict[str, str]:
        """As in `Record`."""
        return {
            "import-source-id": self.source_id,
            "source-stage-id": self.source_stage_id,
            "checksum": self.checksum,
        }

    @classmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        """As in `Record`."""
        record = cls(name, labels["source-stage-id"], labels["checksum"])
        object.__setattr__(record, "source_id", labels["import-source-id"])
        return record


@dataclass(frozen=True, slots=True)
class CustomTag(Record):
    """That a stage got a tag that people gave it.

    Attributes:
        name: The tag.
        stage_id: The stage.

    Raises:
        InvalidNameError: It can be no tag, or is that of a stage or a record.
    """

    kind = RecordKind.CUSTOM_TAG

    name: str
    stage_id: StageId

    def __post_init__(self) -> None:
        if not is_tag(self.name) or StageId.from_tag(self.name) or RecordId.from_tag(self.name):
            raise InvalidNameError(
                f"{quoted(self.name)} can be no custom tag: write at most 128 letters, digits, _ . and -, "
                "and not the tag of a stage or a record"
            )

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, self.name)

    @property
    def labels(self) -> dict[str, str]:
        """As in `Record`."""
        return {"stage-id": str(self.stage_id), "tag": self.name}

    @classmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        """As in `Record`."""
        try:
            record = cls(labels["tag"], StageId.parse(labels["stage-id"]))
        except InvalidNameError as error:
            raise BrokenRecordError(f"the record {labels.tag} says what cannot be: {error}") from error
        if record.id.name != name:
            raise BrokenRecordError(f"the record {labels.tag} is about the tag {record.name}: left alone")
        return record


@dataclass(frozen=True, slots=True)
class RejectedStage(Record):
    """That nobody is to take a stage: it was found to be broken.

    Attributes:
        stage_id: The stage.
    """

    kind = RecordKind.REJECTED_STAGE

    stage_id: StageId

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, str(self.stage_id))

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        """As in `Record`."""
        return cls(StageId.parse(name))


@dataclass(frozen=True, slots=True)
class ClientId(Record):
    """The id under which clients of the project find one another.

    Attributes:
        client_id: The id.
        timestamp_ms: When it was chosen, in werf's count: about twice the milliseconds since 1970. The
            smallest counts, so one with the true time would win over every one of werf's.
    """

    kind = RecordKind.CLIENT_ID

    client_id: str
    timestamp_ms: int

    @classmethod
    def chosen_at(cls, client_id: str, moment_ms: int) -> Self:
        """The record of an id that was chosen at a moment, in milliseconds since 1970.

        Whole seconds and milliseconds are added up, as in werf (pkg/storage/synchronization/lock_manager,
        http_client_id.go).
        """
        return cls(client_id, moment_ms // 1000 * 1000 + moment_ms)

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, f"{self.client_id}-{self.timestamp_ms}")

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        """As in `Record`."""
        client_id, _, timestamp_ms = name.rpartition("-")
        return cls(client_id, int(timestamp_ms))


@dataclass(frozen=True, slots=True)
class LastCleanup(Record):
    """When the repository was last cleaned up.

    Attributes:
        timestamp_ms: In milliseconds since 1970.
    """

    kind = RecordKind.LAST_CLEANUP

    timestamp_ms: int

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, "")

    @property
    def labels(self) -> dict[str, str]:
        """As in `Record`."""
        return {"lastcleanuptimestamp": str(self.timestamp_ms)}

    @classmethod
    def read(cls, _name: str, labels: Labels, /) -> Self:
        """As in `Record`."""
        return cls(labels.moment_ms("lastcleanuptimestamp"))


@dataclass(frozen=True, slots=True)
class LockServer(Record):
    """The lock server that the project's clients use.

    Attributes:
        address: Where it is.
        timestamp_ms: When it was chosen, in milliseconds since 1970.
    """

    kind = RecordKind.LOCK_SERVER

    address: str
    timestamp_ms: int

    @property
    def id(self) -> RecordId:
        """As in `Record`."""
        return RecordId.of(self.kind, "")

    @property
    def labels(self) -> dict[str, str]:
        """As in `Record`."""
        return {"syncserver": self.address, "syncservertimestamp": str(self.timestamp_ms)}

    @classmethod
    def read(cls, _name: str, labels: Labels, /) -> Self:
        """As in `Record`."""
        return cls(labels["syncserver"], labels.moment_ms("syncservertimestamp"))


RECORDS: Mapping[RecordKind, type[Record]] = {
    record.kind: record
    for record in (
        ManagedImage,
        ImageMetadata,
        ImportMetadata,
        CustomTag,
        RejectedStage,
        ClientId,
        LastCleanup,
        LockServer,
    )
}
"""The class of each kind."""
