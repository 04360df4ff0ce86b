"""Record images: small images without content, with facts in their labels.

A record image is a Docker schema 2 manifest (distribution's "Image Manifest Version 2, Schema 2") whose one
layer is an empty archive. The container build tool that defined the records uses the same format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stagefleet.names import Digest

__all__ = ["DIFF_ID", "LAYER", "PROJECT_LABEL", "RecordImage"]

PROJECT_LABEL = "werf"
"""The label with the project of a record; every record has it."""

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"

LAYER = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
"""The gzip of an empty tar archive (1,024 zero bytes); a constant, so that all records share one blob."""

DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The digest of the archive in `LAYER`."""


def _digest(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class RecordImage:
    """A record in the form of an image.

    Attributes:
        config: The bytes of the configuration, with the labels.
        created: The creation time, RFC 3339.
    """

    config: bytes
    created: str

    @classmethod
    def of(cls, project: str, labels: Mapping[str, str], *, created: datetime | None = None) -> RecordImage:
        """Build the image of a record.

        Args:
            project: The project of the record.
            labels: The labels of the record.
            created: The creation time; now if None.
        """
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


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": str(_digest(content))}
