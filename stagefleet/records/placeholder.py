"""Placeholders: what a tag is moved to, so that it can be deleted by digest without its siblings.

An image index without members (OCI image specification 1.1, "OCI Image Index"), which needs no blob. It says
in its annotations what it is; a token gives each a digest of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

__all__ = ["PLACEHOLDER_TYPE", "is_placeholder", "make_placeholder"]

PLACEHOLDER_TYPE = "application/vnd.oci.image.index.v1+json"
_ANNOTATION = "io.stagefleet.placeholder"


def make_placeholder() -> dict[str, Any]:
    """The document of a new placeholder, unlike any other."""
    return {
        "schemaVersion": 2,
        "mediaType": PLACEHOLDER_TYPE,
        "manifests": [],
        "annotations": {_ANNOTATION: secrets.token_hex(16)},
    }


def is_placeholder(annotations: Mapping[str, str]) -> bool:
    """Whether a manifest with these annotations is a placeholder, and so never a stage."""
    return _ANNOTATION in annotations
