"""The record that rejects a stage: nobody takes the stage that it names."""

from __future__ import annotations

import re
import secrets

from stagefleet.names import StageId
from stagefleet.records.image import RecordImage

__all__ = ["DELETION_LABEL", "make_rejection", "rejected_stage"]

DELETION_LABEL = "io.stagefleet.deletion"
"""On a rejection that stands only while its stage is being deleted."""

_SUFFIX = "-rejected"
_MULTIPLATFORM = re.compile(r"([a-f0-9]{56})-0")


def rejected_stage(tag: str) -> StageId | None:
    """The stage that a tag rejects, None for any other tag."""
    if not tag.endswith(_SUFFIX):
        return None
    name = tag.removesuffix(_SUFFIX)
    if match := _MULTIPLATFORM.fullmatch(name):
        return StageId(match[1])
    stage_id = StageId.from_tag(name)
    return None if stage_id is None or stage_id.is_multiplatform else stage_id


def make_rejection(project: str, *, while_deleting: bool = False) -> RecordImage:
    """The record's image.

    Args:
        project: The project that the stage belongs to.
        while_deleting: The record is to go once the stage is gone. It gets a digest of its own, so that it
            can be deleted by that.
    """
    return RecordImage.of(project, {DELETION_LABEL: secrets.token_hex(16)} if while_deleting else {})
