"""Registries in memory: the methods of the registry client, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO

from stagefleet.errors import DigestMismatchError, ManifestRefusedError, NotFoundError, StagefleetError
from stagefleet.leases import NO_LEASE, Lease, current_lease
from stagefleet.manifests import OCI_MANIFEST, Descriptor, Manifest, digest_of
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.project_addresses import Items, parse_repository, parse_stage_ids
from stagefleet.registry.blob_source import BlobSource
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.transport import Body
from stagefleet.registry.upload_sessions import SessionStore, Upload
from stagefleet.threads import RequestThreads

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LATEST = 253_402_300_799
"""The last second of the year 9999, where `datetime` ends."""


@dataclass(slots=True)
class StoredRepository:
    """The content of one repository."""

    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)


class MemoryRegistries(RegistryClient):
    """All registries, and the client of them; a repository exists from the first push into it."""

    def __init__(self) -> None:  # the client over HTTP has no part in it
        self.repositories: dict[Repository, StoredRepository] = {}
        self.threads = RequestThreads(1)

    def stored(self, repository: Repository) -> StoredRepository:
        """Return the content of a repository, which is created if necessary."""
        return self.repositories.setdefault(repository, StoredRepository())

    def add_stages(self, repository: str | Repository, stage_ids: Items) -> None:
        """Push a small image for each stage id, as a build would; create the repository even without any."""
        stored = self.stored(parse_repository(repository))
        for stage_id in map(StageId.parse, parse_stage_ids(stage_ids) or ()):
            created = datetime.fromtimestamp(min(stage_id.created_ms // 1000, _LATEST), UTC)
            layer = str(stage_id).encode()
            image = {
                "created": created.isoformat(),
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [str(digest_of(layer))]},
            }
            config = json.dumps(image).encode()
            stored.blobs |= {digest_of(content): content for content in (config, layer)}
            document = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(config, _CONFIG),
                "layers": [_descriptor(layer, _LAYER)],
            }
            self._store(stored, str(stage_id), Manifest.of(document))

    def delete_tag(self, repository: Repository, tag: str) -> bool:
        """Delete a tag alone; return False if it is missing."""
        return self.stored(repository).tags.pop(tag, None) is not None

    def _store(self, stored: StoredRepository, tag: str | None, manifest: Manifest) -> None:
        stored.manifests[manifest.digest] = manifest
        if tag is not None:
            stored.tags[tag] = manifest.digest

    def _find(self, reference: Reference) -> Manifest:
        stored = self.repositories.get(reference.repository, StoredRepository())
        digest = stored.tags.get(reference.tag) if reference.tag else reference.digest
        if digest is None or digest not in stored.manifests:
            raise _not_found(reference.repository, f"{reference} does not exist")
        return stored.manifests[digest]

    # The client's methods; errors as there.

    def ping(self, host: str, *, lease: Lease = NO_LEASE) -> None:
        del host
        current_lease(lease).check()

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def reopened(self) -> AbstractContextManager[MemoryRegistries]:  # type: ignore[override]  # nothing to close
        return nullcontext(self)

    def prepare(self, host: str, connections: int) -> None:
        """Do nothing: there are no connections."""

    def has_repository(self, repository: Repository, *, lease: Lease = NO_LEASE) -> bool:
        current_lease(lease).check()
        return repository in self.repositories

    def tags(self, repository: Repository, *, lease: Lease = NO_LEASE) -> Iterator[str]:
        if not self.has_repository(repository, lease=lease):
            raise _not_found(repository, f"there is no repository {repository}")
        return iter(sorted(self.repositories[repository].tags))

    def head_manifest(self, reference: Reference, *, lease: Lease = NO_LEASE) -> Descriptor:
        found = self.fetch_manifest(reference, lease=lease)
        return Descriptor(found.media_type, found.digest, found.size)

    def fetch_manifest(self, reference: Reference, *, lease: Lease = NO_LEASE) -> Manifest:
        current_lease(lease).check()
        return self._find(reference)

    def referrers(
        self, repository: Repository, subject: Digest, *, lease: Lease = NO_LEASE
    ) -> tuple[Descriptor, ...] | None:
        current_lease(lease).check()
        return tuple(
            Descriptor(manifest.media_type, digest, manifest.size)
            for digest, manifest in self.stored(repository).manifests.items()
            if manifest.subject is not None and manifest.subject.digest == subject
        )

    def put_manifest(self, reference: Reference, manifest: Manifest, *, lease: Lease = NO_LEASE) -> None:
        current_lease(lease).check()
        stored = self.stored(reference.repository)
        needed = [] if manifest.is_index else [manifest.config, *manifest.layers]
        missing = [
            part.digest
            for part in needed
            if part is not None and part.digest not in stored.blobs and not part.urls
        ]
        missing += [
            member.digest
            for member in manifest.members
            if member.digest not in stored.manifests and member.digest not in stored.blobs
        ]
        if missing:
            raise ManifestRefusedError(
                f"{reference}: the registry lacks parts of it", missing=tuple(map(str, missing)), status=400
            )
        self._store(stored, reference.tag, manifest)

    def delete_manifest(
        self, reference: Reference, *, lease: Lease = NO_LEASE, precheck: Callable[[], float] | None = None
    ) -> None:
        """Delete a tag alone, or a digest with all of its tags."""
        current_lease(lease).check()
        if precheck is not None:
            precheck()
        manifest, stored = self._find(reference), self.stored(reference.repository)
        if reference.tag is not None:
            del stored.tags[reference.tag]
            return
        del stored.manifests[manifest.digest]
        stored.tags = {tag: digest for tag, digest in stored.tags.items() if digest != manifest.digest}

    def has_blob(
        self, repository: Repository, digest: Digest, *, size: int | None = None, lease: Lease = NO_LEASE
    ) -> bool:
        del size
        current_lease(lease).check()
        return digest in self.stored(repository).blobs

    def fetch_blob(
        self, repository: Repository, descriptor: Descriptor, *, limit_bytes: int = 0, lease: Lease = NO_LEASE
    ) -> bytes:
        """Return a blob, verified as by the client over HTTP; `limit_bytes` is ignored."""
        del limit_bytes
        content = self._stored_blob(repository, descriptor, lease)
        found = digest_of(content, descriptor.digest.algorithm)
        if found != descriptor.digest:
            message = f"{repository}: blob {descriptor.digest} has digest {found}"
            raise DigestMismatchError(message, found=str(found))
        return content

    def hash_blob(self, repository: Repository, descriptor: Descriptor, *, lease: Lease = NO_LEASE) -> Digest:
        return digest_of(self._stored_blob(repository, descriptor, lease), descriptor.digest.algorithm)

    def _stored_blob(self, repository: Repository, descriptor: Descriptor, lease: Lease) -> bytes:
        current_lease(lease).check()
        content = self.stored(repository).blobs.get(descriptor.digest)
        if content is None:
            raise _not_found(repository, f"{repository} has no blob {descriptor.digest}")
        return content

    def begin_upload(
        self,
        repository: Repository,
        digest: Digest,
        *,
        mount_from: Repository | None,
        lease: Lease = NO_LEASE,
    ) -> Upload | None:
        current_lease(lease).check()
        mounted = None if mount_from is None else self.stored(mount_from).blobs.get(digest)
        if mounted is None:
            return Upload(repository, digest, "")
        self.stored(repository).blobs[digest] = mounted
        return None

    def post_blob(
        self,
        repository: Repository,
        digest: Digest,
        body: Callable[[], bytes | Body],
        *,
        lease: Lease = NO_LEASE,
        answer_seconds: float | None = None,
    ) -> Upload | None:
        del body, answer_seconds
        return self.begin_upload(repository, digest, mount_from=None, lease=lease)

    def cancel_upload(self, upload: Upload, *, lease: Lease = NO_LEASE) -> None:
        """Do nothing: an upload has no session."""

    def upload_bytes(self, upload: Upload, content: bytes, *, lease: Lease = NO_LEASE) -> None:
        current_lease(lease).check()
        self.stored(upload.repository).blobs[upload.digest] = content

    def open_blob(  # type: ignore[override]  # a blob in memory needs no reader
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        lease: Lease = NO_LEASE,
        on_bytes: Callable[[int], None] | None = None,
        seconds: float | None = None,
    ) -> BlobSource:
        del seconds
        content = self.fetch_blob(repository, descriptor, lease=lease)
        if on_bytes is not None:
            on_bytes(len(content))
        return _Blob(content)

    def upload_blob(
        self,
        destination: Repository,
        descriptor: Descriptor,
        open_source: Callable[[], BlobSource],
        *,
        mount_from: Repository | None,
        lease: Lease = NO_LEASE,
        await_turn: Callable[[], None] = lambda: None,
        sessions: SessionStore | None = None,
    ) -> int:
        del sessions
        upload = self.begin_upload(destination, descriptor.digest, mount_from=mount_from, lease=lease)
        if upload is None:
            return 0
        await_turn()
        with closing(open_source()) as source:
            content = b"".join(iter(source.read, b""))
        self.upload_bytes(upload, content, lease=lease)
        return len(content)


class _Blob(BytesIO):
    """A blob that is read; its content is verified."""

    error: StagefleetError | None = None
    first = 0

    def __len__(self) -> int:
        return len(self.getbuffer()) - self.first

    def skip(self, count: int) -> None:
        self.first = self.seek(count)


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest_of(content)), "size": len(content)}


def _not_found(repository: Repository, message: str) -> NotFoundError:
    return NotFoundError(message, method="GET", repository=str(repository), status=404)
