"""Quick recognition of the tags of frequent records.

A tag that does not match the grammar is unknown, and never modified.
"""

from __future__ import annotations

import re

from stagefleet.records.rejection import rejected_stage

__all__ = ["is_record_tag"]

_IMAGE_METADATA = re.compile(r"meta-[a-f0-9]{1,8}_[a-f0-9]{40,64}_[a-f0-9]{56}(?:-[0-9]{1,19})?")
_IMPORT_METADATA = re.compile(r"import-metadata-[a-f0-9]{32,64}")


def is_record_tag(tag: str) -> bool:
    """Return True for the tag of a rejection, of image metadata or of import metadata."""
    return (
        rejected_stage(tag) is not None
        or _IMAGE_METADATA.fullmatch(tag) is not None
        or _IMPORT_METADATA.fullmatch(tag) is not None
    )
