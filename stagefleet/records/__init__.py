"""Records, which are kept beside stages in a repository, and the grammar of their tags."""

from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.models import (
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    LastCleanup,
    LockServer,
    ManagedImage,
    Record,
    RejectedStage,
)

__all__ = [
    "ClientId",
    "CustomTag",
    "ImageMetadata",
    "ImportMetadata",
    "LastCleanup",
    "LockServer",
    "ManagedImage",
    "Record",
    "RecordId",
    "RecordKind",
    "RejectedStage",
]
