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

from stagefleet.errors import ContentError, NotFoundError, RegistryError
from stagefleet.image_config import describe_image
from stagefleet.leases import Lease
from stagefleet.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from stagefleet.names import Digest, Reference, StageId
from stagefleet.registry.client import RegistryClient

PROJECT_LABEL = "werf"
"""The label with the project of a record; every record has it."""

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

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
        return self._manifest_as(DOCKER_MANIFEST, _DOCKER_CONFIG, _DOCKER_LAYER)

    @property
    def oci_manifest(self) -> dict[str, Any]:
        """The same record for registries that take no media types but OCI's (zot as it comes)."""
        return self._manifest_as(OCI_MANIFEST, _OCI_CONFIG, _OCI_LAYER)

    def _manifest_as(self, media_type: str, config_type: str, layer_type: str) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": _descriptor(config_type, self.config),
            "layers": [_descriptor(layer_type, LAYER)],
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

_ANNOTATION = "io.stagefleet.placeholder"


def make_placeholder() -> dict[str, Any]:
    """Create the document of a placeholder with a unique digest."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [],
        "annotations": {_ANNOTATION: secrets.token_hex(16)},
    }


def is_placeholder(annotations: Mapping[str, str]) -> bool:
    """Return True if a manifest has the annotations of a placeholder, and so is no stage."""
    return _ANNOTATION in annotations


# Records in registries: read the labels of one, and push one.


_REFUSED_TYPES = frozenset({400, 406, 415, 422})
"""Statuses with which registries refuse Docker's media types (zot #3104)."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """The digest of an image's manifest and the labels of its configuration, as far as they can be read."""

    digest: Digest | None
    labels: Mapping[str, str]


def read_labels(client: RegistryClient, reference: Reference) -> LabelledImage | None:
    """Read an image's labels; None if there is no image, or a placeholder."""
    digest = None
    try:
        manifest = client.fetch_manifest(reference)
        if is_placeholder(manifest.annotations):
            return None
        digest = manifest.digest
        if manifest.config is None:
            return LabelledImage(digest, {})
        config = client.fetch_blob(reference.repository, manifest.config)
        return LabelledImage(digest, describe_image(reference.repository, "", manifest, config).labels)
    except NotFoundError:  # of the configuration, if the manifest is there
        return None if digest is None else LabelledImage(digest, {})
    except ContentError:
        return LabelledImage(digest, {})


def put_record(
    client: RegistryClient, reference: Reference, record: RecordImage, *, lease: Lease
) -> Descriptor:
    """Push a record under a tag, and return the descriptor of its manifest: an OCI one if need be."""
    repository = reference.repository
    for digest, content in record.blobs.items():
        upload = client.begin_upload(repository, digest, mount_from=repository)
        if upload is not None:
            client.upload_bytes(upload, content)
    manifest = Manifest.of(record.manifest)
    try:
        client.put_manifest(reference, manifest, lease=lease)
    except RegistryError as error:
        if error.status not in _REFUSED_TYPES:
            raise
        manifest = Manifest.of(record.oci_manifest)
        client.put_manifest(reference, manifest, lease=lease)
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
