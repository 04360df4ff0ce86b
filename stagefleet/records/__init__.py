"""Records, which are kept beside stages in a repository, and the grammar of their tags."""

from stagefleet.records.ids import RecordId, RecordKind
from stagefleet.records.image import RecordImage
from stagefleet.records.image_names import decode_name, encode_name, image_hash
from stagefleet.records.models import (
    RECORDS,
    ClientId,
    CustomTag,
    ImageMetadata,
    ImportMetadata,
    LastCleanup,
    LockServer,
    ManagedImage,
    RejectedStage,
)
from stagefleet.records.placeholder import is_placeholder, make_placeholder
from stagefleet.records.record import Record
from stagefleet.records.rejection import DELETION_LABEL, make_rejection, rejected_stage
from stagefleet.records.slug import limited_slug, tag_slug
from stagefleet.records.tags import is_record_tag

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
