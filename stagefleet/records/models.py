"""The kinds of records, one class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from stagefleet.errors import BrokenRecordError, InvalidNameError
from stagefleet.names import StageId, is_tag
from stagefleet.records.ids import RecordId, RecordKind, image_hash
from stagefleet.redaction import quoted

_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """A record: its tag holds its identity, its labels hold the rest."""

    kind: ClassVar[RecordKind]

    @property
    def id(self) -> RecordId:
        """The identity of the record; raises `InvalidNameError` if no such record can exist."""
        return RecordId.of(self.kind, "")  # of the kinds with a single record

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the record, without the project's."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        """Build a record from the name of its identity and its labels; `BrokenRecordError` without one."""

    def as_json(self) -> dict[str, Any]:
        """Return the record as commands and outcomes show it (see docs/records.md)."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "kind": str(self.kind),
            "id": self.id.item,
            "tag": self.id.tag,
            **{name: str(fact) if isinstance(fact, StageId) else fact for name, fact in facts.items()},
        }


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of the record of a tag; each lookup requires the label."""

    tag: str
    labels: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        try:
            return self.labels[name]
        except KeyError:
            raise BrokenRecordError(f"the record {self.tag} lacks the label {name}: left alone") from None

    def moment_ms(self, name: str) -> int:
        """Read a time in milliseconds since 1970; raise `BrokenRecordError` if it is missing or none."""
        text = self[name]
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise BrokenRecordError(f"the record {self.tag} has {text[:30]!r} as {name}: left alone")
        return int(text)


@dataclass(frozen=True, slots=True)
class ManagedImage(Record):
    """An image that the project manages, "" for the one without a name; clean-up keeps images of one."""

    kind = RecordKind.MANAGED_IMAGE

    name: str

    @property
    def id(self) -> RecordId:
        return RecordId.of(self.kind, self.name)

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        return cls(name)


@dataclass(frozen=True, slots=True)
class ImageMetadata(Record):
    """A link from an image, by the hash of its name, and a commit to the stage that was built for them."""

    kind = RecordKind.IMAGE_METADATA

    image_hash: str
    commit: str
    stage_id: StageId

    @classmethod
    def of_image(cls, name: str, commit: str, stage_id: StageId) -> Self:
        """Build the metadata of an image from its name."""
        return cls(image_hash(name), commit, stage_id)

    @property
    def id(self) -> RecordId:
        return RecordId.of(self.kind, f"{self.image_hash}_{self.commit}_{self.stage_id}")

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        hashed, commit, stage_id = name.split("_")
        return cls(hashed, commit, StageId.parse(stage_id))


@dataclass(frozen=True, slots=True)
class ImportMetadata(Record):
    """An import of files from one stage into another; its id says which files, and how.

    `source_id`, the id in its label, equals `import_id`, except in records of earlier releases, which let
    the two differ.
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
        return RecordId.of(self.kind, self.import_id)

    @property
    def labels(self) -> dict[str, str]:
        return {
            "import-source-id": self.source_id,
            "source-stage-id": self.source_stage_id,
            "checksum": self.checksum,
        }

    @classmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        record = cls(name, labels["source-stage-id"], labels["checksum"])
        object.__setattr__(record, "source_id", labels["import-source-id"])
        return record


@dataclass(frozen=True, slots=True)
class CustomTag(Record):
    """A custom tag that a user gave to a stage; not the tag of a stage or a record."""

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
        return RecordId.of(self.kind, self.name)

    @property
    def labels(self) -> dict[str, str]:
        return {"stage-id": str(self.stage_id), "tag": self.name}

    @classmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        try:
            record = cls(labels["tag"], StageId.parse(labels["stage-id"]))
        except InvalidNameError as error:
            raise BrokenRecordError(f"the record {labels.tag} says what cannot be: {error}") from error
        if record.id.name != name:
            raise BrokenRecordError(f"the record {labels.tag} is about the tag {record.name}: left alone")
        return record


@dataclass(frozen=True, slots=True)
class RejectedStage(Record):
    """A stage that must not be used, since it was found to be broken."""

    kind = RecordKind.REJECTED_STAGE

    stage_id: StageId

    @property
    def id(self) -> RecordId:
        return RecordId.of(self.kind, str(self.stage_id))

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        return cls(StageId.parse(name))


@dataclass(frozen=True, slots=True)
class ClientId(Record):
    """The id with which clients of the project identify each other.

    The timestamp counts as werf does: about twice the milliseconds since 1970. The smallest wins, so one
    with the true time would win over all those of werf.
    """

    kind = RecordKind.CLIENT_ID

    client_id: str
    timestamp_ms: int

    @classmethod
    def chosen_at(cls, client_id: str, moment_ms: int) -> Self:
        """Build the record of an id that was created at a time, in milliseconds since 1970.

        The timestamp adds the time in whole seconds, as milliseconds, to the time in milliseconds, as in werf
        (pkg/storage/synchronization/lock_manager, http_client_id.go).
        """
        return cls(client_id, moment_ms // 1000 * 1000 + moment_ms)

    @property
    def id(self) -> RecordId:
        return RecordId.of(self.kind, f"{self.client_id}-{self.timestamp_ms}")

    @classmethod
    def read(cls, name: str, _labels: Labels, /) -> Self:
        client_id, _, timestamp_ms = name.rpartition("-")
        return cls(client_id, int(timestamp_ms))


@dataclass(frozen=True, slots=True)
class LastCleanup(Record):
    """The time of the repository's last clean-up, in milliseconds since 1970."""

    kind = RecordKind.LAST_CLEANUP

    timestamp_ms: int

    @property
    def labels(self) -> dict[str, str]:
        return {"lastcleanuptimestamp": str(self.timestamp_ms)}

    @classmethod
    def read(cls, _name: str, labels: Labels, /) -> Self:
        return cls(labels.moment_ms("lastcleanuptimestamp"))


@dataclass(frozen=True, slots=True)
class LockServer(Record):
    """The address of the lock server of the project's clients, and the time of the choice."""

    kind = RecordKind.LOCK_SERVER

    address: str
    timestamp_ms: int

    @property
    def labels(self) -> dict[str, str]:
        return {"syncserver": self.address, "syncservertimestamp": str(self.timestamp_ms)}

    @classmethod
    def read(cls, _name: str, labels: Labels, /) -> Self:
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
"""The class of each kind of record."""
