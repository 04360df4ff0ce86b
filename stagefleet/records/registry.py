"""Records in registries: read the labels of one, and push one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagefleet.errors import ContentError, NotFoundError, RegistryError
from stagefleet.image_config import describe_image
from stagefleet.leases import Lease
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, Reference
from stagefleet.records.image import RecordImage, is_placeholder
from stagefleet.registry.client import RegistryClient

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
        try:
            config = client.fetch_blob(reference.repository, manifest.config)
        except NotFoundError:
            return LabelledImage(digest, {})
        return LabelledImage(digest, describe_image(reference.repository, "", manifest, config).labels)
    except NotFoundError:
        return None
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
