"""Record images: small images without content, with facts in their labels.

A record image is a Docker schema 2 manifest (distribution's "Image Manifest Version 2, Schema 2") whose one
layer is an empty archive. The container build tool that defined the records uses the same format.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stagefleet.manifests import OCI_MANIFEST
from stagefleet.names import Digest, StageId

PROJECT_LABEL = "werf"
"""The label with the project of a record; every record has it."""

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_OCI_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

LAYER = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
"""The gzip of an empty tar archive (1,024 zero bytes); a constant, so that all records share one blob."""

DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The digest of the archive in `LAYER`."""


def _digest(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class RecordImage:
    """A record in the form of an image: a configuration with its labels, and the RFC 3339 time."""

    config: bytes
    created: str

    @classmethod
    def of(cls, project: str, labels: Mapping[str, str], *, created: datetime | None = None) -> RecordImage:
        """Build the image of a record, created now if no time is given."""
        moment = (created or datetime.now(UTC)).isoformat().replace("+00:00", "Z")
        config = {
            "architecture": "",
            "os": "",
            "created": moment,
            "config": {"Labels": {PROJECT_LABEL: project, **labels}},
            "history": [{}],
            "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
        }
        return cls(json.dumps(config, separators=(",", ":")).encode(), moment)

    @property
    def blobs(self) -> dict[Digest, bytes]:
        """The blobs that must be in the repository before the manifest."""
        return {_digest(LAYER): LAYER, _digest(self.config): self.config}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as a document."""
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, self.config),
            "layers": [_descriptor(LAYER_TYPE, LAYER)],
        }

    @property
    def oci_manifest(self) -> dict[str, Any]:
        """The same record for registries that take no media types but OCI's (zot as it comes)."""
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(_OCI_CONFIG_TYPE, self.config),
            "layers": [_descriptor(_OCI_LAYER_TYPE, LAYER)],
        }


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": str(_digest(content))}


# The record that rejects a stage, so that nobody uses it.

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

    One that lasts only `while_deleting` gets a unique digest, so that it can be deleted by digest after the
    stage.
    """
    return RecordImage.of(project, {DELETION_LABEL: secrets.token_hex(16)} if while_deleting else {})


# Placeholders: a tag is moved to one so that it can be deleted by digest without other tags.
#
# A placeholder is an image index without members (OCI image specification 1.1, "OCI Image Index"), which
# needs no blob. Its annotations mark it; a random token makes its digest unique.

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
