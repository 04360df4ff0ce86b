"""Placeholders: a tag is moved to one so that it can be deleted by digest without other tags.

A placeholder is an image index without members (OCI image specification 1.1, "OCI Image Index"), which needs
no blob. Its annotations mark it; a random token makes its digest unique.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

__all__ = ["PLACEHOLDER_TYPE", "is_placeholder", "make_placeholder"]

PLACEHOLDER_TYPE = "application/vnd.oci.image.index.v1+json"
_ANNOTATION = "io.stagefleet.placeholder"


def make_placeholder() -> dict[str, Any]:
    """Create the document of a placeholder with a unique digest."""
    return {
        "schemaVersion": 2,
        "mediaType": PLACEHOLDER_TYPE,
        "manifests": [],
        "annotations": {_ANNOTATION: secrets.token_hex(16)},
    }


def is_placeholder(annotations: Mapping[str, str]) -> bool:
    """Return True if a manifest has the annotations of a placeholder, and so is no stage."""
    return _ANNOTATION in annotations
