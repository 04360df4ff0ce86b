"""Writer of records into repositories."""

from __future__ import annotations

from stagefleet.names import Reference
from stagefleet.records import RecordImage
from stagefleet.registry import Descriptor, Manifest, RegistryClient
from stagefleet.registry.lease import Lease

__all__ = ["put_record"]


def put_record(
    client: RegistryClient, reference: Reference, record: RecordImage, *, lease: Lease
) -> Descriptor:
    """Push a record under a tag.

    Returns:
        The descriptor of its manifest.
    """
    repository = reference.repository
    for digest, content in record.blobs.items():
        upload = client.begin_upload(repository, digest, mount_from=repository)
        if upload is not None:
            client.upload_bytes(upload, content)
    manifest = Manifest.of(record.manifest)
    client.put_manifest(reference, manifest, lease=lease)
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
