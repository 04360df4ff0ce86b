"""Records, which are kept beside stages in a repository, and the grammar of their tags."""

from stagefleet.records.ids import (
    RecordId,
    RecordKind,
    decode_name,
    encode_name,
    image_hash,
    is_record_tag,
    limited_slug,
    tag_slug,
)
from stagefleet.records.image import (
    DELETION_LABEL,
    RecordImage,
    is_placeholder,
    make_placeholder,
    make_rejection,
    rejected_stage,
)
from stagefleet.records.models import (
    RECORDS,
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
    "DELETION_LABEL",
    "RECORDS",
    "ClientId",
    "CustomTag",
    "ImageMetadata",
    "ImportMetadata",
    "LastCleanup",
    "LockServer",
    "ManagedImage",
    "Record",
    "RecordId",
    "RecordImage",
    "RecordKind",
    "RejectedStage",
    "decode_name",
    "encode_name",
    "image_hash",
    "is_placeholder",
    "is_record_tag",
    "limited_slug",
    "make_placeholder",
    "make_rejection",
    "rejected_stage",
    "tag_slug",
]
