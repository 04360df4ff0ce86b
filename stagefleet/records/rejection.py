"""The record that rejects a stage, so that nobody uses it."""

from __future__ import annotations

import re
import secrets

from stagefleet.names import StageId
from stagefleet.records.image import RecordImage

__all__ = ["DELETION_LABEL", "make_rejection", "rejected_stage"]

DELETION_LABEL = "io.stagefleet.deletion"
"""The label of a rejection that lasts only while its stage is being deleted."""

_SUFFIX = "-rejected"
_MULTIPLATFORM = re.compile(r"([a-f0-9]{56})-0")


def rejected_stage(tag: str) -> StageId | None:
    """Return the stage that a tag rejects; None for any other tag."""
    if not tag.endswith(_SUFFIX):
        return None
    name = tag.removesuffix(_SUFFIX)
    if match := _MULTIPLATFORM.fullmatch(name):
        return StageId(match[1])
    stage_id = StageId.from_tag(name)
    return None if stage_id is None or stage_id.is_multiplatform else stage_id


def make_rejection(project: str, *, while_deleting: bool = False) -> RecordImage:
    """Build the image of a rejection.

    Args:
        project: The project of the stage.
        while_deleting: Make a temporary rejection, to be deleted after the stage. It gets a unique digest, so
            that it can be deleted by digest.
    """
    return RecordImage.of(project, {DELETION_LABEL: secrets.token_hex(16)} if while_deleting else {})
