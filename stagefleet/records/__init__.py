"""The records kept beside stages in a repository, and their tag grammar."""

from stagefleet.records.image import RecordImage
from stagefleet.records.placeholder import is_placeholder, make_placeholder
from stagefleet.records.rejection import DELETION_LABEL, make_rejection, rejected_stage
from stagefleet.records.tags import is_record_tag

__all__ = [
    "DELETION_LABEL",
    "RecordImage",
    "is_placeholder",
    "is_record_tag",
    "make_placeholder",
    "make_rejection",
    "rejected_stage",
]
